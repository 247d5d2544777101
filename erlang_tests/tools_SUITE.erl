%% What OTP's tools ask of a node: the shell's helpers, `observer` and `etop`. These run here without a window: each test makes the
%% calls that the tool makes, and what comes back has to have the shape that this OTP itself gives.
-module(tools_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").
-include_lib("runtime_tools/include/observer_backend.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_function_is_exported_when_it_is_answered_and_only_then/1,
         functions_of_the_program_are_exported_too/1,
         what_would_act_on_the_node_is_not_there/1,
         it_says_that_it_is_no_beam/1,
         system_info_has_the_types_of_otp/1,
         statistics_have_the_types_of_otp/1,
         memory_has_the_kinds_of_otp_and_adds_up/1,
         time_is_that_of_the_host/1,
         now_never_repeats/1,
         nodes_tells_what_they_are/1,
         processes_are_alive_and_have_names/1,
         process_info_has_the_items_of_otp/1,
         process_info_of_nobody_is_undefined/1,
         process_info_of_what_it_cannot_tell_is_badarg/1,
         net_kernel_tells_its_state/1,
         applications_and_code_are_answered/1,
         the_shell_lists_its_processes_and_names/1,
         observer_shows_the_system_page/1,
         observer_shows_the_applications_page/1,
         observer_shows_the_process_page/1,
         observer_shows_one_process/1,
         observer_finds_no_tables_ports_and_sockets/1,
         etop_shows_the_node/1,
         a_collector_of_another_node_is_refused/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    #{node := Rust} = rust:start(rust, #{args => ["--echo"]}),
    Beam = grid:peer(beam),
    pong = grid:call(Beam, net_adm, ping, [Rust]),
    [{rust, Rust}, {beam, Beam} | Config].

end_per_suite(_) -> grid:stop_since([]).

%% Runs on the Erlang node, with the name of the Rust node.
on_beam(Config, Fun) ->
    Rust = ?config(rust, Config),
    grid:on(?config(beam, Config), fun() -> Fun(Rust) end).

%% Whether two terms have the same types, as far down as they can be compared.
alike(A, B) when is_integer(A) -> is_integer(B);
alike(A, B) when is_boolean(A) -> is_boolean(B);
alike(A, B) when is_atom(A) -> is_atom(B);
alike(A, B) when is_pid(A) -> is_pid(B);
alike(A, B) when is_binary(A) -> is_binary(B);
alike(A, B) when is_list(A) -> is_list(B);
alike(A, B) when is_map(A) -> is_map(B);
alike(A, B) when is_tuple(A), tuple_size(A) =:= tuple_size(B) ->
    lists:all(fun({X, Y}) -> alike(X, Y) end, lists:zip(tuple_to_list(A), tuple_to_list(B)));
alike(_, _) -> false.

%% ---------------------------------------------------------------- what is answered

a_function_is_exported_when_it_is_answered_and_only_then(Config) ->
    on_beam(Config, fun(Rust) ->
        Answered = [{M, F, A} || M <- [erlang, net_kernel, net_adm, inet, application, code, os, proc_lib, observer_backend, appmon_info,
                                       init,                                       rpc, erpc, sys, ets],
                                 {module, M} =:= code:ensure_loaded(M),
                                 {F, A} <- M:module_info(exports),
                                 answered(Rust, M, F, A)],
        ?assert(length(Answered) > 60),
        ?assertEqual([], [MFA || {erlang, F, _} = MFA <- Answered,
                                 lists:member(F, [halt, get_cookie, set_cookie, spawn, exit, load_module])])
    end).

%% References are no argument of any of these: those that act would not, even if they were answered.
answered(Rust, M, F, A) ->
    Exported = rpc:call(Rust, erlang, function_exported, [M, F, A]),
    Answered = case rpc:call(Rust, M, F, [make_ref() || _ <- lists:seq(1, A)]) of
                   {badrpc, {'EXIT', {undef, _}}} -> false;
                   _ -> true
               end,
    ?assertEqual({M, F, A, Exported}, {M, F, A, Answered}),
    Answered.

functions_of_the_program_are_exported_too(Config) ->
    on_beam(Config, fun(Rust) ->
        Exported = fun(M, F, A) -> rpc:call(Rust, erlang, function_exported, [M, F, A]) end,
        [?assert(Exported(M, F, A)) || {M, F, A} <- [{redgrid, nodes, 0}, {redgrid, update_meta, 1}, {echo, echo, 1}]],
        [?assertNot(Exported(M, F, A)) || {M, F, A} <- [{redgrid, nodes, 2}, {echo, echo, 2}, {lists, map, 2}]]
    end).

what_would_act_on_the_node_is_not_there(Config) ->
    on_beam(Config, fun(Rust) ->
        [begin
             ?assertMatch({badrpc, {'EXIT', {undef, _}}}, rpc:call(Rust, M, F, Args)),
             ?assertNot(rpc:call(Rust, erlang, function_exported, [M, F, length(Args)]))
         end || {M, F, Args} <- [{erlang, halt, []}, {erlang, halt, [0]}, {init, stop, []}, {init, restart, []}, {os, cmd, ["true"]},
                                 {erlang, get_cookie, []}, {erlang, set_cookie, [a, b]}, {erlang, open_port, [{spawn, "true"}, []]},
                                 {code, load_file, [lists]}, {code, add_path, ["."]}, {code, purge, [lists]},
                                 {application, set_env, [a, b, c]}, {application, stop, [kernel]}, {application, start, [kernel]},
                                 {net_kernel, stop, []}, {net_kernel, set_net_ticktime, [1]}, {erlang, system_flag, [schedulers_online, 1]},
                                 {erlang, garbage_collect, []}, {erlang, disconnect_node, [node()]}]],
        ?assertEqual({error, badfile}, rpc:call(Rust, code, load_binary, [m, "m.beam", <<>>])),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

%% ---------------------------------------------------------------- the system

it_says_that_it_is_no_beam(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual("redgrid", rpc:call(Rust, erlang, system_info, [machine])),
        ?assertEqual({ok, redgrid}, begin [{App, _, _}] = rpc:call(Rust, application, which_applications, []), {ok, App} end)
    end).

system_info_has_the_types_of_otp(Config) ->
    on_beam(Config, fun(Rust) ->
        [?assert(alike(erlang:system_info(Item), rpc:call(Rust, erlang, system_info, [Item])), Item)
         || Item <- [machine, otp_release, system_version, version, system_architecture, process_count, process_limit, port_count,
                     port_limit, atom_count, atom_limit, ets_count, ets_limit, schedulers, schedulers_online, logical_processors,
                     wordsize, {wordsize, internal}, {wordsize, external}, creation, dist_buf_busy_limit, smp_support, threads,
                     kernel_poll, thread_pool_size, multi_scheduling, dirty_cpu_schedulers, build_type, compat_rel, time_correction,
                     time_warp_mode, time_offset, start_time, alloc_util_allocators]],
        ?assertEqual(length(rpc:call(Rust, erlang, processes, [])), rpc:call(Rust, erlang, system_info, [process_count])),
        [?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, system_info, [Item]))
         || Item <- [no_such_item, {wordsize, no_such}, 1, "version"]]
    end).

statistics_have_the_types_of_otp(Config) ->
    on_beam(Config, fun(Rust) ->
        [?assert(alike(erlang:statistics(Item), rpc:call(Rust, erlang, statistics, [Item])), Item)
         || Item <- [wall_clock, runtime, reductions, exact_reductions, context_switches, garbage_collection, io, run_queue,
                     run_queue_lengths, total_run_queue_lengths, total_active_tasks, scheduler_wall_time]],
        ?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, statistics, [no_such_item])),
        {Total, _} = rpc:call(Rust, erlang, statistics, [wall_clock]),
        timer:sleep(10),
        {Later, Since} = rpc:call(Rust, erlang, statistics, [wall_clock]),
        ?assertEqual(Later - Total, Since),
        ?assert(Since >= 10),
        {{input, Input}, {output, Output}} = rpc:call(Rust, erlang, statistics, [io]),
        Big = binary:copy(<<0>>, 1000000),
        Big = rpc:call(Rust, echo, echo, [Big]),
        {{input, MoreInput}, {output, MoreOutput}} = rpc:call(Rust, erlang, statistics, [io]),
        [?assert(More - Before >= 1000000) || {Before, More} <- [{Input, MoreInput}, {Output, MoreOutput}]]
    end).

memory_has_the_kinds_of_otp_and_adds_up(Config) ->
    on_beam(Config, fun(Rust) ->
        Memory = rpc:call(Rust, erlang, memory, []),
        ?assertEqual([Kind || {Kind, _} <- erlang:memory()], [Kind || {Kind, _} <- Memory]),
        Value = fun(Kind) -> {_, Bytes} = lists:keyfind(Kind, 1, Memory), Bytes end,
        ?assertEqual(Value(total), Value(processes) + Value(system)),
        %% A process of a few megabytes at least, and not of this machine's size.
        ?assert(Value(total) > 2000000),
        ?assert(Value(total) < 4000000000),
        ?assert(is_integer(rpc:call(Rust, erlang, memory, [total]))),
        ?assertMatch([{ets, 0}, {total, T}] when T > 2000000, rpc:call(Rust, erlang, memory, [[ets, total]])),
        [?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, memory, [Kind]))
         || Kind <- [no_such_kind, [total, no_such_kind], [total | ets], lists:duplicate(1000, total)]]
    end).

time_is_that_of_the_host(Config) ->
    on_beam(Config, fun(Rust) ->
        Near = fun(M, F, Unit) -> abs(rpc:call(Rust, M, F, [Unit]) - erlang:system_time(Unit)) =< erlang:convert_time_unit(5, second, Unit) end,
        [?assert(Near(M, system_time, Unit)) || M <- [erlang, os], Unit <- [second, millisecond, microsecond, nanosecond, 7]],
        [First, Second] = [rpc:call(Rust, erlang, monotonic_time, [nanosecond]) || _ <- [1, 2]],
        ?assert(First < Second),
        [?assert(is_integer(rpc:call(Rust, erlang, F, []))) || F <- [monotonic_time, system_time, time_offset]],
        {Date, Time} = rpc:call(Rust, erlang, universaltime, []),
        Seconds = calendar:datetime_to_gregorian_seconds({Date, Time}),
        ?assert(abs(calendar:datetime_to_gregorian_seconds(erlang:universaltime()) - Seconds) =< 5),
        Local = calendar:datetime_to_gregorian_seconds(rpc:call(Rust, erlang, localtime, [])),
        ?assert(abs(Local - Seconds) =< 15 * 3600),
        [?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, system_time, [Unit])) || Unit <- [0, -1, fortnight, "second"]]
    end).

now_never_repeats(Config) ->
    on_beam(Config, fun(Rust) ->
        Nows = [rpc:call(Rust, erlang, now, []) || _ <- lists:seq(1, 200)],
        ?assertEqual(lists:usort(Nows), Nows),
        ?assertMatch({_, _, _}, rpc:call(Rust, erlang, timestamp, []))
    end).

nodes_tells_what_they_are(Config) ->
    on_beam(Config, fun(Rust) ->
        Own = node(),
        ?assertMatch([{Own, #{node_type := visible, connection_id := Id}}] when is_integer(Id),
                     rpc:call(Rust, erlang, nodes, [connected, #{node_type => true, connection_id => true}])),
        ?assertEqual([{Rust, #{node_type => this}}], rpc:call(Rust, erlang, nodes, [this, #{node_type => true}])),
        ?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, nodes, [this, #{nonsense => true}]))
    end).

net_kernel_tells_its_state(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertEqual((net_kernel:get_state())#{name => Rust}, rpc:call(Rust, net_kernel, get_state, [])),
        ?assertEqual(net_kernel:longnames(), rpc:call(Rust, net_kernel, longnames, [])),
        ?assert(is_integer(rpc:call(Rust, net_kernel, get_net_ticktime, []))),
        ?assertEqual("127.0.0.1", rpc:call(Rust, net_adm, localhost, [])),
        {ok, Host} = rpc:call(Rust, inet, gethostname, []),
        ?assert(io_lib:printable_list(Host) andalso Host =/= "")
    end).

applications_and_code_are_answered(Config) ->
    on_beam(Config, fun(Rust) ->
        ?assertMatch([{redgrid, [_ | _], [_ | _]}], rpc:call(Rust, application, which_applications, [])),
        ?assertEqual(undefined, rpc:call(Rust, application, get_env, [kernel, no_such])),
        ?assertEqual(fallback, rpc:call(Rust, application, get_env, [kernel, no_such, fallback])),
        ?assertEqual({error, nofile}, rpc:call(Rust, code, ensure_loaded, [observer_backend])),
        ?assertEqual(non_existing, rpc:call(Rust, code, which, [lists])),
        ?assertEqual(false, rpc:call(Rust, code, is_loaded, [lists])),
        ?assertEqual([], rpc:call(Rust, code, all_loaded, []))
    end).

%% ---------------------------------------------------------------- processes

processes_are_alive_and_have_names(Config) ->
    on_beam(Config, fun(Rust) ->
        Pids = rpc:call(Rust, erlang, processes, []),
        ?assert(lists:all(fun(Pid) -> node(Pid) =:= Rust end, Pids)),
        [?assert(rpc:call(Rust, erlang, is_process_alive, [Pid])) || Pid <- Pids],
        Names = rpc:call(Rust, erlang, registered, []),
        ?assert(lists:member(net_kernel, Names)),
        [begin
             Pid = rpc:call(Rust, erlang, whereis, [Name]),
             ?assert(lists:member(Pid, Pids)),
             ?assertEqual({registered_name, Name}, rpc:call(Rust, erlang, process_info, [Pid, registered_name]))
         end || Name <- Names],
        %% One that a peer could watch has no name: then OTP says [].
        ?assert(lists:any(fun(Pid) -> rpc:call(Rust, erlang, process_info, [Pid, registered_name]) =:= [] end, Pids))
    end).

process_info_has_the_items_of_otp(Config) ->
    on_beam(Config, fun(Rust) ->
        Pid = rpc:call(Rust, erlang, whereis, [redgrid]),
        %% With a name, as that one has.
        true = register(named, self()),
        Own = process_info(self()),
        Told = rpc:call(Rust, erlang, process_info, [Pid]),
        ?assertEqual([Key || {Key, _} <- Own], [Key || {Key, _} <- Told]),
        Items = [Key || {Key, _} <- Own] ++ [memory, messages, monitors, monitored_by, current_stacktrace, current_location, binary,
                                             catchlevel, last_calls, message_queue_data, min_heap_size, sequential_trace_token, trace,
                                             garbage_collection_info, max_heap_size, fullsweep_after, min_bin_vheap_size, backtrace],
        [begin
             Ours = process_info(self(), Item),
             Theirs = rpc:call(Rust, erlang, process_info, [Pid, Item]),
             ?assert(alike(Ours, Theirs), {Ours, Theirs})
         end || Item <- Items, Item =/= dictionary],
        ?assertEqual(Items, [Key || {Key, _} <- rpc:call(Rust, erlang, process_info, [Pid, Items])]),
        ?assertEqual([], rpc:call(Rust, erlang, process_info, [Pid, []]))
    end).

process_info_of_nobody_is_undefined(Config) ->
    on_beam(Config, fun(Rust) ->
        Dead = spawn(Rust, no_module, no_function, []),
        ?assertEqual(undefined, rpc:call(Rust, erlang, process_info, [Dead])),
        ?assertEqual(undefined, rpc:call(Rust, erlang, process_info, [Dead, links])),
        ?assertEqual(undefined, rpc:call(Rust, erlang, process_info, [Dead, [links, memory]])),
        ?assertEqual(false, rpc:call(Rust, erlang, is_process_alive, [Dead]))
    end).

process_info_of_what_it_cannot_tell_is_badarg(Config) ->
    on_beam(Config, fun(Rust) ->
        Pid = rpc:call(Rust, erlang, whereis, [redgrid]),
        Dead = spawn(Rust, no_module, no_function, []),
        [?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, process_info, Args))
         || Args <- [[self()], [redgrid], [self(), links], [Pid, no_such_item], [Dead, no_such_item], [Pid, [links | memory]],
                     %% What OTP would answer with as many copies.
                     [Pid, lists:duplicate(1000, messages)]]],
        ?assertMatch({badrpc, {'EXIT', {badarg, _}}}, rpc:call(Rust, erlang, is_process_alive, [self()]))
    end).

%% ---------------------------------------------------------------- the shell

the_shell_lists_its_processes_and_names(Config) ->
    Rust = ?config(rust, Config),
    Printed = grid:on(?config(beam, Config), fun() -> printed(fun() -> c:nregs(), c:ni(), ok end) end),
    ?assertMatch({match, _}, re:run(Printed, "Registered procs on node '" ++ atom_to_list(Rust))),
    ?assertMatch({match, _}, re:run(Printed, "redgrid +<\\d+\\.\\d+\\.\\d+> +rust:process/0")).

%% What a function prints. It is its own terminal: whoever is asked to go on after a page does.
printed(Fun) ->
    Terminal = self(),
    {Pid, Ref} = spawn_monitor(fun() -> group_leader(Terminal, self()), exit({result, Fun()}) end),
    printed(Pid, Ref, []).

printed(Pid, Ref, Before) ->
    receive
        {io_request, From, As, Request} ->
            {Reply, Text} = io_reply(Request),
            From ! {io_reply, As, Reply},
            printed(Pid, Ref, [Before, Text]);
        {'DOWN', Ref, process, Pid, {result, _}} -> unicode:characters_to_binary(Before);
        {'DOWN', Ref, process, Pid, Reason} -> error(Reason)
    end.

io_reply({put_chars, _, Text}) -> {ok, Text};
io_reply({put_chars, _, M, F, Args}) -> {ok, apply(M, F, Args)};
io_reply({get_line, _, _}) -> {"c\n", []};
io_reply(getopts) -> {[], []};
io_reply(_) -> {{error, enotsup}, []}.

%% ---------------------------------------------------------------- observer

observer_shows_the_system_page(Config) ->
    on_beam(Config, fun(Rust) ->
        Info = erpc:call(Rust, observer_backend, sys_info, []),
        Own = observer_backend:sys_info(),
        ?assertEqual(39, length(Info)),
        %% The kinds of memory come in no certain order.
        ?assertEqual(lists:sort([Key || {Key, _} <- Own]), lists:sort([Key || {Key, _} <- Info])),
        [?assert(alike(proplists:get_value(Key, Own), Value), {Key, Value}) || {Key, Value} <- Info],
        %% Which the page divides by.
        [?assert(proplists:get_value(Limit, Info) > 0) || Limit <- [atom_limit, process_limit, port_limit, ets_limit]],
        ?assertEqual({ok, "2.1"}, rpc:call(Rust, observer_backend, vsn, [])),
        %% The page of allocators sums them, and ends the window over a sum of none.
        [{Allocator, [{instance, 0, [{_, [{blocks, [{_, [{size, Blocks, _, _}]}]}, {carriers_size, Carriers, _, _}]}]}]}] =
            proplists:get_value(alloc_info, Info),
        ?assert(is_atom(Allocator) andalso Blocks > 0 andalso Carriers > 0)
    end).

%% The page of applications is empty, but it has somebody to ask.
observer_shows_the_applications_page(Config) ->
    on_beam(Config, fun(Rust) ->
        {ok, Pid} = appmon_info:start_link(Rust, self(), []),
        ?assertEqual(Rust, node(Pid)),
        appmon_info:app_ctrl(Pid, Rust, true, []),
        appmon_info:app(Pid, redgrid, true, []),
        exit(Pid, normal),
        ?assert(rpc:call(Rust, erlang, is_process_alive, [Pid])),
        ?assertEqual(pong, net_adm:ping(Rust))
    end).

%% As the process that holds the table does it: it asks which backend there is, then for all, and is done at a normal end.
observer_shows_the_process_page(Config) ->
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        _ = rpc:call(Rust, code, ensure_loaded, [observer_backend]),
        ?assertEqual(true, rpc:call(Rust, erlang, function_exported, [observer_backend, procs_info, 1])),
        Backend = spawn_link(Rust, observer_backend, procs_info, [self()]),
        Infos = receive {procs_info, Backend, Told} -> Told after 5000 -> error(nothing_told) end,
        receive {'EXIT', Backend, Reason} -> ?assertEqual(normal, Reason) after 5000 -> error(no_end) end,
        Pids = rpc:call(Rust, erlang, processes, []),
        ?assertEqual(lists:sort(Pids), lists:sort([Pid || #etop_proc_info{pid = Pid} <- Infos])),
        [?assert(is_integer(Mem) andalso is_integer(Reds) andalso is_integer(Queue) andalso (is_atom(Name) orelse tuple_size(Name) =:= 3)
                 andalso tuple_size(Function) =:= 3)
         || #etop_proc_info{mem = Mem, reds = Reds, mq = Queue, name = Name, cf = Function} <- Infos],
        ?assert(lists:member(redgrid, [Name || #etop_proc_info{name = Name} <- Infos]))
    end).

%% What the window of one process asks: its page, messages, dictionary, stack and state.
observer_shows_one_process(Config) ->
    on_beam(Config, fun(Rust) ->
        Pid = rpc:call(Rust, erlang, whereis, [redgrid]),
        Items = [binary, catchlevel, current_function, error_handler, garbage_collection, group_leader, heap_size, initial_call,
                 last_calls, links, memory, message_queue_len, monitored_by, monitors, priority, reductions, registered_name,
                 sequential_trace_token, stack_size, status, suspending, total_heap_size, trace, trap_exit],
        ?assert(is_integer(erpc:call(Rust, erlang, system_info, [wordsize]))),
        Info = erpc:call(Rust, erlang, process_info, [Pid, Items]),
        ?assertEqual(Items, [Key || {Key, _} <- Info]),
        Collected = proplists:get_value(garbage_collection, Info),
        [?assert(is_integer(proplists:get_value(Key, Collected))) || Key <- [min_heap_size, fullsweep_after]],
        ?assertMatch({messages, []}, erpc:call(Rust, erlang, process_info, [Pid, messages])),
        ?assertMatch({dictionary, []}, erpc:call(Rust, erlang, process_info, [Pid, dictionary])),
        ?assertMatch({current_stacktrace, [{_, _, _, _} | _]}, erpc:call(Rust, erlang, process_info, [Pid, current_stacktrace])),
        ?assertEqual({proc_lib, init_p, 5}, rpc:call(Rust, proc_lib, translate_initial_call, [Pid])),
        ?assertEqual(undefined, rpc:call(Rust, proc_lib, get_label, [Pid])),
        %% The group leader can be clicked on.
        Leader = proplists:get_value(group_leader, Info),
        ?assertMatch([_ | _], erpc:call(Rust, erlang, process_info, [Leader, Items]))
    end).

observer_finds_no_tables_ports_and_sockets(Config) ->
    on_beam(Config, fun(Rust) ->
        [?assertEqual([], rpc:call(Rust, observer_backend, F, Args))
         || {F, Args} <- [{get_table_list, [ets, [{sys_hidden, true}, {unread_hidden, true}]]}, {get_table_list, [mnesia, []]},
                          {get_port_list, []}, {get_socket_list, []}, {socket_info, []}]],
        ?assertEqual([], rpc:call(Rust, erlang, ports, [])),
        [Port | _] = erlang:ports(),
        ?assertEqual(undefined, rpc:call(Rust, erlang, port_info, [Port])),
        ?assertEqual(undefined, rpc:call(Rust, erlang, port_info, [Port, name])),
        ?assertEqual(0, rpc:call(Rust, erlang, system_info, [dirty_cpu_schedulers]))
    end).

%% ---------------------------------------------------------------- etop

etop_shows_the_node(Config) ->
    Info = on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        {ok, _} = rpc:call(Rust, observer_backend, vsn, []),
        Collector = spawn_link(Rust, observer_backend, etop_collect, [self()]),
        Info = receive {Collector, #etop_info{} = Told} -> Told after 5000 -> error(nothing_told) end,
        receive {'EXIT', Collector, Reason} -> ?assertEqual(normal, Reason) after 5000 -> error(no_end) end,
        ?assertEqual(length(Info#etop_info.procinfo), Info#etop_info.n_procs),
        Info
    end),
    %% The small roots of other releases have no observer, which draws with wx: there the message is all that is looked at.
    case code:ensure_loaded(etop_txt) of
        {module, _} -> etop_writes(?config(rust, Config), Info);
        {error, nofile} -> {comment, "this OTP has no etop"}
    end.

%% As observer writes it into a file. The options are a record of etop's own, with more fields in each release.
etop_writes(Rust, Info) ->
    Write = fun(Options) -> printed(fun() -> etop_txt:do_update(group_leader(), Info, #etop_info{}, Options) end) end,
    [Text] = lists:append([try [Write(erlang:make_tuple(Size, undefined, [{1, opts}, {2, Rust}]))]
                           catch error:_ -> []
                           end || Size <- [18, 19, 20]]),
    [?assertMatch({match, _}, re:run(Text, Shown), {Shown, Text})
     || Shown <- [atom_to_list(Rust), "net_kernel", "rust:process", "processes"]].

a_collector_of_another_node_is_refused(Config) ->
    Third = grid:peer(third),
    Elsewhere = grid:on(Third, fun() -> spawn(timer, sleep, [infinity]) end),
    on_beam(Config, fun(Rust) ->
        process_flag(trap_exit, true),
        [begin
             Collector = spawn_link(Rust, observer_backend, procs_info, [Bad]),
             receive {'EXIT', Collector, Reason} -> ?assertMatch({badarg, _}, Reason) after 5000 -> error(no_end) end
         end || Bad <- [Elsewhere, nobody, []]]
    end),
    grid:stop(Third).
