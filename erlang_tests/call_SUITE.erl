%% What an Erlang caller gets from a Rust node: the very answers that OTP gives.
-module(call_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([rpc_call_gives_the_value/1,
         rpc_call_with_a_timeout_gives_the_value/1,
         rpc_cast_runs_the_function/1,
         rpc_multicall_gives_a_value_per_node/1,
         rpc_async_call_gives_the_value/1,
         rpc_spreads_work_over_the_nodes/1,
         rpc_to_an_undefined_function_is_badrpc_undef/1,
         rpc_to_another_arity_is_badrpc_undef/1,
         what_would_act_on_the_node_is_undefined/1,
         erpc_call_gives_the_value/1,
         erpc_to_an_undefined_function_is_error_undef/1,
         erpc_of_a_fun_is_refused/1,
         erpc_multicall_gives_a_result_per_node/1,
         erpc_send_request_gives_the_value/1,
         erpc_collects_requests_and_casts_to_many/1,
         erpc_that_waits_no_longer_leaves_nothing_behind/1,
         arguments_that_look_like_a_string_arrive/1,
         gen_server_call_is_answered/1,
         gen_server_call_by_the_pid_is_answered/1,
         gen_server_send_request_is_answered/1,
         gen_server_multi_call_tells_who_is_not_there/1,
         gen_server_call_to_an_absent_name_exits_with_noproc/1,
         an_unknown_call_answers_unknown_message/1,
         an_unknown_cast_or_message_does_no_harm/1,
         a_message_to_an_absent_name_does_no_harm/1,
         a_monitor_of_an_absent_name_fires_noproc_with_the_name/1,
         a_monitor_of_a_dead_pid_fires_noproc/1,
         a_monitor_fires_noconnection_when_the_node_ends/1,
         a_monitor_that_was_taken_back_does_not_fire/1,
         a_thousand_monitors_come_and_go/1,
         a_link_to_a_dead_pid_exits_with_noproc/1,
         an_unlink_is_acknowledged/1,
         spawn_request_is_answered_once/1,
         spawn_request_answers_as_it_was_asked_to/1,
         spawn_takes_every_shape/1,
         spawn_of_a_fun_gives_a_dead_process/1,
         spawn_of_a_function_comes_back/1,
         a_process_ends_with_a_large_reason_of_exit_2/1,
         a_process_ends_with_the_large_reason_of_a_link/1,
         large_arguments_arrive/1,
         a_call_when_the_node_ends_fails_with_nodedown/1,
         ten_thousand_calls_are_answered_in_order/1,
         echo_answers_a_bare_message/1,
         echo_counts_data/1,
         sink_counts_data/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    [{rust, maps:get(node, rust:start(rust, #{args => ["--echo"]}))}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

%% Runs on the Erlang node, with the name of the Rust node.
on_beam(Config, Fun) ->
    Rust = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() -> Fun(Rust) end).

%% ---------------------------------------------------------------- rpc and erpc

rpc_call_gives_the_value(Config) ->
    on_beam(Config, fun(Rust) -> ?assertEqual(Rust, rpc:call(Rust, erlang, node, [])) end).

rpc_call_with_a_timeout_gives_the_value(Config) ->
    on_beam(Config, fun(Rust) -> ?assertEqual({a, "term"}, rpc:call(Rust, echo, echo, [{a, "term"}], 5000)) end).

rpc_cast_runs_the_function(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assert(rpc:cast(Rust, redgrid, update_meta, [[{by, cast}]])),
        grid:until(fun() ->
            [{Rust, Meta}] = rpc:call(Rust, redgrid, nodes, []),
            lists:keyfind(<<"by">>, 1, Meta) =:= {<<"by">>, <<"cast">>}
        end, 5000)
    end).

rpc_multicall_gives_a_value_per_node(Config) ->
    on_beam(Config, fun(Rust) ->
        {Values, Bad} = rpc:multicall([node(), Rust, 'nobody@127.0.0.1'], erlang, node, []),
        ?assertEqual([node(), Rust], Values),
        ?assertEqual(['nobody@127.0.0.1'], Bad)
    end).

rpc_async_call_gives_the_value(Config) ->
    on_beam(Config, fun(Rust) -> ?assertEqual(Rust, rpc:yield(rpc:async_call(Rust, erlang, node, []))) end).

%% `pmap` and `parallel_eval` take every node that is in `nodes()`.
rpc_spreads_work_over_the_nodes(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assert(lists:member(Rust, nodes())),
        ?assertEqual([8, 8, 8, 8], rpc:pmap({erlang, system_info}, [], lists:duplicate(4, wordsize))),
        Where = rpc:parallel_eval(lists:duplicate(4, {erlang, node, []})),
        ?assert(lists:member(Rust, Where)),
        ?assertMatch({[_, _], []}, rpc:multicall([node(), Rust], erlang, system_info, [wordsize], 5000)),
        Key = rpc:async_call(Rust, erlang, node, []),
        ?assertEqual({value, Rust}, rpc:nb_yield(Key, 5000))
    end).

rpc_to_an_undefined_function_is_badrpc_undef(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertMatch({badrpc, {'EXIT', {undef, [{no_module, no_function, [a, "b"], []} | _]}}},
                     rpc:call(Rust, no_module, no_function, [a, "b"]))
    end).

rpc_to_another_arity_is_badrpc_undef(Config) ->
    on_beam(Config, fun(Rust) ->
        [?assertMatch({badrpc, {'EXIT', {undef, [{M, F, Args, []} | _]}}}, rpc:call(Rust, M, F, Args))
         || {M, F, Args} <- [{erlang, node, [a, b, c]}, {redgrid, nodes, [a, b]}, {redgrid, no_such, []}]]
    end).

what_would_act_on_the_node_is_undefined(Config) ->
    on_beam(Config, fun(Rust) ->
        [?assertMatch({badrpc, {'EXIT', {undef, _}}}, rpc:call(Rust, M, F, Args))
         || {M, F, Args} <- [{erlang, halt, []}, {erlang, halt, [0]}, {init, stop, []}, {os, cmd, ["true"]},
                             {erlang, get_cookie, []}, {erlang, apply, [erlang, halt, []]}]],
        ?assertEqual(Rust, rpc:call(Rust, erlang, apply, [erlang, node, []])),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

erpc_call_gives_the_value(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual(Rust, erpc:call(Rust, erlang, node, [])),
        ?assertEqual({a, "term"}, erpc:call(Rust, echo, echo, [{a, "term"}], 5000))
    end).

erpc_to_an_undefined_function_is_error_undef(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertError({exception, undef, [{no_module, no_function, [1, 2], []} | _]},
                     erpc:call(Rust, no_module, no_function, [1, 2]))
    end).

erpc_of_a_fun_is_refused(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertMatch({caught, error, _}, try erpc:call(Rust, fun() -> erlang:node() end) catch C:E -> {caught, C, E} end),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

erpc_multicall_gives_a_result_per_node(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertMatch([{ok, N}, {ok, Rust}, {error, {erpc, noconnection}}] when N =:= node(),
                     erpc:multicall([node(), Rust, 'nobody@127.0.0.1'], erlang, node, [])),
        ?assertMatch([{error, {exception, undef, _}}], erpc:multicall([Rust], no_module, f, []))
    end).

erpc_send_request_gives_the_value(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual(Rust, erpc:receive_response(erpc:send_request(Rust, erlang, node, []), 5000))
    end).

erpc_collects_requests_and_casts_to_many(Config) ->
    on_beam(Config, fun(Rust) ->
        Requests = lists:foldl(fun(N, Ids) -> erpc:send_request(Rust, echo, echo, [N], N, Ids) end,
                               erpc:reqids_new(), lists:seq(1, 10)),
        Collect = fun Collect(Ids) ->
            case erpc:receive_response(Ids, 5000, true) of
                no_request -> [];
                {Value, Value, Rest} -> [Value | Collect(Rest)]
            end
        end,
        ?assertEqual(lists:seq(1, 10), lists:sort(Collect(Requests))),
        Id = erpc:send_request(Rust, echo, echo, [waited]),
        ?assertEqual({response, waited}, erpc:wait_response(Id, 5000)),
        ok = erpc:cast(Rust, redgrid, update_meta, [[{by, erpc_cast}]]),
        ok = erpc:multicast([Rust, node()], redgrid, update_meta, [[{by, multicast}]]),
        grid:until(fun() ->
            [{Rust, Meta}] = rpc:call(Rust, redgrid, nodes, []),
            lists:keyfind(<<"by">>, 1, Meta) =:= {<<"by">>, <<"multicast">>}
        end, 5000)
    end).

erpc_that_waits_no_longer_leaves_nothing_behind(Config) ->
    on_beam(Config, fun(Rust) ->
        Large = binary:copy(<<7>>, 4 * 1024 * 1024),
        _ = [try erpc:call(Rust, echo, echo, [Large], 0) catch error:{erpc, timeout} -> ok end || _ <- lists:seq(1, 10)],
        ?assertEqual(Rust, erpc:call(Rust, erlang, node, [])),
        ?assertEqual(nothing, now_or_never())
    end).

%% On the wire a list of small integers is a string: as the list of arguments, too.
arguments_that_look_like_a_string_arrive(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual(5, rpc:call(Rust, echo, echo, [5])),
        ?assertEqual("abc", rpc:call(Rust, echo, echo, ["abc"])),
        ?assertMatch({badrpc, {'EXIT', {undef, [{m, f, [1, 2, 3], []} | _]}}}, rpc:call(Rust, m, f, [1, 2, 3]))
    end).

%% ---------------------------------------------------------------- gen_server

gen_server_call_is_answered(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertMatch([{Rust, [{<<"ip">>, <<"127.0.0.1">>} | _]}], gen_server:call({redgrid, Rust}, nodes)),
        ?assertEqual({any, request}, gen_server:call({echo, Rust}, {any, request}))
    end).

gen_server_call_by_the_pid_is_answered(Config) ->
    on_beam(Config, fun(Rust) ->
        Pid = rpc:call(Rust, erlang, whereis, [echo]),
        ?assertEqual(Rust, node(Pid)),
        ?assertEqual(request, gen_server:call(Pid, request))
    end).

gen_server_send_request_is_answered(Config) ->
    on_beam(Config, fun(Rust) ->
        Requests = [{N, gen_server:send_request({echo, Rust}, N)} || N <- lists:seq(1, 10)],
        [?assertEqual({reply, N}, gen_server:wait_response(Id, 5000)) || {N, Id} <- Requests]
    end).

gen_server_multi_call_tells_who_is_not_there(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual({[{Rust, hello}], ['nobody@127.0.0.1']},
                     gen_server:multi_call([Rust, 'nobody@127.0.0.1'], echo, hello, 5000)),
        %% Without a timeout only the answer to its monitor ends the wait.
        ?assertEqual({[], [Rust]}, gen_server:multi_call([Rust], no_such_name, hello))
    end).

gen_server_call_to_an_absent_name_exits_with_noproc(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertExit({noproc, {gen_server, call, [{no_such_name, Rust}, hello]}},
                    gen_server:call({no_such_name, Rust}, hello))
    end).

an_unknown_call_answers_unknown_message(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual(unknown_message, gen_server:call({redgrid, Rust}, {what, is, this})),
        ?assertEqual(unknown_message, gen_server:call({redgrid, Rust}, 42))
    end).

an_unknown_cast_or_message_does_no_harm(Config) ->
    on_beam(Config, fun(Rust) ->
        [begin
             ok = gen_server:cast({Name, Rust}, {what, is, this}),
             {Name, Rust} ! {what, is, this},
             {Name, Rust} ! "text"
         end || Name <- [redgrid, echo, sink, net_kernel, rex, global_name_server, logger_proxy]],
        ?assertMatch([{Rust, _}], gen_server:call({redgrid, Rust}, nodes)),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

a_message_to_an_absent_name_does_no_harm(Config) ->
    on_beam(Config, fun(Rust) ->
        {no_such_name, Rust} ! hello,
        abcast = gen_server:abcast([Rust], no_such_name, hello),
        ?assertEqual(1, gen_server:call({echo, Rust}, 1))
    end).

%% ---------------------------------------------------------------- monitors and links

a_monitor_of_an_absent_name_fires_noproc_with_the_name(Config) ->
    on_beam(Config, fun(Rust) ->
        Ref = monitor(process, {no_such_name, Rust}),
        ?assertEqual({'DOWN', Ref, process, {no_such_name, Rust}, noproc}, next())
    end).

a_monitor_of_a_dead_pid_fires_noproc(Config) ->
    on_beam(Config, fun(Rust) ->
        Dead = dead_pid(Rust),
        Ref = monitor(process, Dead),
        ?assertEqual({'DOWN', Ref, process, Dead, noproc}, next())
    end).

a_monitor_fires_noconnection_when_the_node_ends(Config) ->
    #{node := Node} = Rust = rust:start(leaver, #{args => ["--echo"]}),
    Beam = ?config(beam, Config),
    Watcher = grid:on(Beam, fun() ->
        Pid = spawn(fun() ->
            %% It answers, so it has the name by which it is watched.
            ready = gen_server:call({echo, Node}, ready),
            Refs = [monitor(process, {redgrid, Node}), monitor(process, {echo, Node})],
            ok = gen_server:call({echo, Node}, ok),
            receive {go, From} -> From ! gone end,
            Downs = [receive {'DOWN', Ref, process, {Name, N}, Why} -> {Name, N, Why} after 5000 -> none end || Ref <- Refs],
            receive {tell, To} -> To ! Downs end
        end),
        Pid ! {go, self()},
        gone = next(),
        Pid
    end),
    rust:stop(Rust),
    Downs = grid:on(Beam, fun() -> Watcher ! {tell, self()}, next() end),
    ?assertEqual([{redgrid, Node, noconnection}, {echo, Node, noconnection}], Downs).

a_monitor_that_was_taken_back_does_not_fire(Config) ->
    #{node := Node} = Rust = rust:start(leaver, #{args => ["--echo"]}),
    Beam = ?config(beam, Config),
    Watcher = grid:on(Beam, fun() ->
        spawn(fun() ->
            Ref = monitor(process, {echo, Node}),
            ok = gen_server:call({echo, Node}, ok),
            true = demonitor(Ref),
            ok = gen_server:call({echo, Node}, ok),
            monitor_node(Node, true),
            receive First -> receive {tell, To} -> To ! First end end
        end)
    end),
    grid:until(fun() -> grid:call(Beam, erlang, process_info, [Watcher, status]) =:= {status, waiting}
                            andalso grid:call(Beam, erlang, process_info, [Watcher, monitors]) =:= {monitors, []} end, 5000),
    rust:stop(Rust),
    ?assertEqual({nodedown, Node}, grid:on(Beam, fun() -> Watcher ! {tell, self()}, next() end)).

a_thousand_monitors_come_and_go(Config) ->
    on_beam(Config, fun(Rust) ->
        Kept = [monitor(process, {echo, Rust}) || _ <- lists:seq(1, 1000)],
        Absent = [monitor(process, {no_such_name, Rust}) || _ <- lists:seq(1, 1000)],
        [?assertMatch({'DOWN', _, process, _, noproc}, receive {'DOWN', Ref, _, _, _} = Down -> Down after 5000 -> none end)
         || Ref <- Absent],
        [true = demonitor(Ref) || Ref <- Kept],
        ?assertEqual(ok, gen_server:call({echo, Rust}, ok)),
        ?assertEqual(nothing, now_or_never())
    end).

a_link_to_a_dead_pid_exits_with_noproc(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        Dead = dead_pid(Rust),
        true = link(Dead),
        ?assertEqual({'EXIT', Dead, noproc}, next())
    end).

%% Until the acknowledgement has come OTP keeps the link in the process' information.
an_unlink_is_acknowledged(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        Pid = rpc:call(Rust, erlang, whereis, [echo]),
        lists:foreach(fun(_) -> true = link(Pid), true = unlink(Pid) end, lists:seq(1, 100)),
        ?assertEqual(ok, gen_server:call(Pid, ok)),
        true = link(Pid),
        ?assertEqual({links, [Pid]}, links_to(Pid)),
        true = unlink(Pid),
        ?assertEqual({links, []}, links_to(Pid)),
        ?assertEqual(nothing, now_or_never())
    end).

links_to(Pid) ->
    {links, Links} = process_info(self(), links),
    {links, [Link || Link <- Links, Link =:= Pid]}.

%% ---------------------------------------------------------------- spawn

spawn_request_is_answered_once(Config) ->
    on_beam(Config, fun(Rust) ->
        Id = spawn_request(Rust, echo, echo, [hello], [monitor, {reply_tag, answer}]),
        {answer, Id, ok, Pid} = next(),
        ?assertEqual(Rust, node(Pid)),
        ?assertMatch({'DOWN', Id, process, Pid, _}, next()),
        ?assertEqual(nothing, now_or_never())
    end).

spawn_request_answers_as_it_was_asked_to(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        Asked = fun(Options) -> spawn_request(Rust, echo, echo, [hello], [{reply_tag, answer} | Options]) end,
        %% Nothing is said of a success that nobody wants to hear of; what was asked for beside comes all the same.
        Quiet = Asked([{reply, error_only}, monitor]),
        ?assertMatch({'DOWN', Quiet, process, _, normal}, next()),
        Silent = Asked([{reply, no}, monitor]),
        ?assertMatch({'DOWN', Silent, process, _, normal}, next()),
        Tagged = Asked([{reply, success_only}, {monitor, [{tag, ended}]}]),
        ?assertMatch({answer, Tagged, ok, _}, next()),
        ?assertMatch({ended, Tagged, process, _, normal}, next()),
        Linked = Asked([{reply, yes}, link]),
        {answer, Linked, ok, Pid} = next(),
        ?assertEqual({'EXIT', Pid, normal}, next()),
        Failed = spawn_request(Rust, no_module, f, [], [{reply_tag, answer}, link]),
        {answer, Failed, ok, Other} = next(),
        ?assertMatch({'EXIT', Other, {undef, [{no_module, f, [], []} | _]}}, next()),
        ?assertEqual(nothing, now_or_never())
    end).

spawn_takes_every_shape(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        Pid = spawn_link(Rust, echo, echo, [one]),
        ?assertEqual({'EXIT', Pid, normal}, next()),
        {Watched, Ref} = spawn_monitor(Rust, echo, echo, [two]),
        ?assertEqual({'DOWN', Ref, process, Watched, normal}, next()),
        {Both, Both_ref} = spawn_opt(Rust, echo, echo, [three], [link, monitor, {priority, high}]),
        ?assertEqual({'EXIT', Both, normal}, next()),
        ?assertEqual({'DOWN', Both_ref, process, Both, normal}, next()),
        %% Of a fun that names a function only the name crosses the wire.
        {Named, Named_ref} = spawn_monitor(Rust, fun erlang:node/0),
        ?assertEqual({'DOWN', Named_ref, process, Named, normal}, next()),
        {Local, Local_ref} = spawn_monitor(Rust, fun() -> ok end),
        ?assertMatch({'DOWN', Local_ref, process, Local, {{badfun, _}, _}}, next()),
        ?assertEqual(nothing, now_or_never())
    end).

spawn_of_a_fun_gives_a_dead_process(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        Pid = spawn_link(Rust, fun() -> ok end),
        ?assertMatch({'EXIT', Pid, _}, next()),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

spawn_of_a_function_comes_back(Config) ->
    on_beam(Config, fun(Rust) ->
        Pid = spawn(Rust, no_module, no_function, []),
        Ref = monitor(process, Pid),
        ?assertMatch({'DOWN', Ref, process, Pid, _}, next())
    end).

%% ---------------------------------------------------------------- large reasons and arguments

large() -> rand:bytes(1048576).

%% A process there that waits for one here.
waiting_there(Rust) ->
    Silent = spawn(fun() -> receive stop -> ok end end),
    {Pid, Ref} = spawn_opt(Rust, redgrid, nodes, [Silent], [monitor]),
    {Pid, Ref, monitor(process, Pid)}.

a_process_ends_with_a_large_reason_of_exit_2(Config) ->
    on_beam(Config, fun(Rust) ->
        Reason = {because, large()},
        {Pid, First, Second} = waiting_there(Rust),
        exit(Pid, normal),
        exit(Pid, Reason),
        Downs = [next(), next()],
        ?assert(lists:sort([{'DOWN', Ref, process, Pid, Reason} || Ref <- [First, Second]]) =:= lists:sort(Downs)),
        ?assertEqual(nothing, now_or_never())
    end).

a_process_ends_with_the_large_reason_of_a_link(Config) ->
    on_beam(Config, fun(Rust) ->
        Reason = {because, large()},
        {Pid, First, Second} = waiting_there(Rust),
        %% Its exit is no error that is to be reported with a mebibyte in it.
        {_, Linked} = spawn_monitor(fun() -> link(Pid), exit(Reason) end),
        Downs = [next(), next(), next()],
        ?assertMatch([{'DOWN', _, process, _, Reason}], [Down || {'DOWN', Ref, _, _, _} = Down <- Downs, Ref =:= Linked]),
        ?assert(lists:sort([{'DOWN', Ref, process, Pid, Reason} || Ref <- [First, Second]]) =:=
                    lists:sort([Down || {'DOWN', Ref, _, _, _} = Down <- Downs, Ref =/= Linked]))
    end).

large_arguments_arrive(Config) ->
    on_beam(Config, fun(Rust) ->
        Large = [large(), {large(), a}],
        ?assert(Large =:= rpc:call(Rust, echo, echo, [Large])),
        ?assert(Large =:= rpc:block_call(Rust, echo, echo, [Large])),
        ?assert(Large =:= erpc:call(Rust, echo, echo, [Large])),
        ?assert([{ok, Large}, {ok, Large}] =:= erpc:multicall([Rust, Rust], echo, echo, [Large])),
        {badrpc, {'EXIT', {undef, Stack}}} = rpc:call(Rust, no_module, no_function, [Large, b]),
        ?assert([{no_module, no_function, [Large, b], []}] =:= [Top || {no_module, _, _, _} = Top <- Stack]),
        true = rpc:cast(Rust, echo, echo, [Large]),
        Id = spawn_request(Rust, echo, echo, [Large], [monitor, link, {reply_tag, answer}]),
        {answer, Id, ok, Pid} = next(),
        ?assertEqual({'DOWN', Id, process, Pid, normal}, next())
    end).

a_call_when_the_node_ends_fails_with_nodedown(_) ->
    #{node := Node, handle := Handle} = Rust = rust:start(victim, #{args => ["--echo"]}),
    Caller = grid:peer(caller),
    ok = grid:call(Caller, gen_server, call, [{echo, Node}, ok]),
    %% It is there and does not answer, until it is gone.
    launch:signal(Handle, stop),
    grid:eventually({badrpc, timeout}, fun() -> grid:call(Caller, rpc, call, [Node, erlang, node, [], 200]) end),
    Calls = grid:on(Caller, fun() ->
        spawn(fun() ->
            Call = fun(F) -> spawn_monitor(fun() -> exit({result, try F() catch C:E -> {C, E} end}) end) end,
            Waiting = [Call(fun() -> rpc:call(Node, erlang, node, []) end),
                       Call(fun() -> erpc:call(Node, erlang, node, []) end),
                       Call(fun() -> gen_server:call({echo, Node}, ok, infinity) end)],
            Results = [receive {'DOWN', Ref, _, _, {result, R}} -> R after 15000 -> still_waiting end
                       || {_, Ref} <- Waiting],
            receive {tell, To} -> To ! Results end
        end)
    end),
    rust:kill(Rust),
    [Rpc, Erpc, Gen] = grid:on(Caller, fun() ->
        Calls ! {tell, self()},
        receive Results -> Results after 15000 -> none end
    end),
    ?assertEqual({badrpc, nodedown}, Rpc),
    ?assertEqual({error, {erpc, noconnection}}, Erpc),
    ?assertMatch({exit, {{nodedown, Node}, _}}, Gen).

ten_thousand_calls_are_answered_in_order(Config) ->
    on_beam(Config, fun(Rust) ->
        Self = self(),
        Ref = make_ref(),
        Numbers = lists:seq(1, 10000),
        [{echo, Rust} ! {Self, Ref, N} || N <- Numbers],
        ?assertEqual(Numbers, [receive {Ref, N} -> N after 5000 -> none end || _ <- Numbers])
    end).

%% ---------------------------------------------------------------- echo and sink

echo_answers_a_bare_message(Config) ->
    on_beam(Config, fun(Rust) ->
        Ref = make_ref(),
        {echo, Rust} ! {self(), Ref, [payload]},
        ?assertEqual({Ref, [payload]}, next())
    end).

echo_counts_data(Config) ->
    on_beam(Config, fun(Rust) ->
        _ = gen_server:call({echo, Rust}, total),
        [{echo, Rust} ! {data, binary:copy(<<"x">>, N)} || N <- lists:seq(1, 100)],
        ?assertEqual({100, 5050}, gen_server:call({echo, Rust}, total)),
        ?assertEqual({0, 0}, gen_server:call({echo, Rust}, total))
    end).

sink_counts_data(Config) ->
    on_beam(Config, fun(Rust) ->
        [{sink, Rust} ! {data, <<"x">>} || _ <- lists:seq(1, 100)],
        {sink, Rust} ! {total, self()},
        ?assertEqual({total, 100}, next()),
        {sink, Rust} ! {total, self()},
        ?assertEqual({total, 0}, next())
    end).

%% ---------------------------------------------------------------- small things

next() -> receive Message -> Message after 5000 -> nothing_came end.

%% What came before is here once a later call was answered.
now_or_never() -> receive Message -> Message after 0 -> nothing end.

%% A process that has been there.
dead_pid(Rust) ->
    {Pid, Ref} = spawn_opt(Rust, echo, echo, [bye], [monitor]),
    receive {'DOWN', Ref, process, Pid, _} -> Pid after 5000 -> error(does_not_end) end.
