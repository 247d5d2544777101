%% Large messages between real nodes: they come back as they were, keep nobody else waiting, keep the order between two
%% processes, and whoever goes away in the middle of one does no harm. The same whoever of the two nodes has connected.
-module(large_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2, end_per_group/2,
         init_per_testcase/2, end_per_testcase/2]).
-export([the_connection_was_made_by_whom_it_should/1,
         a_binary_of_64_mebibytes_comes_back_by_gen_server_call/1,
         a_binary_of_64_mebibytes_comes_back_by_rpc_call/1,
         a_binary_of_64_mebibytes_comes_back_as_a_message/1,
         the_rust_node_gets_a_large_answer_to_its_own_call/1,
         messages_to_one_process_keep_their_order/1,
         answers_to_aliases_keep_their_order/1,
         messages_to_names_and_pids_of_one_process_keep_their_order/1,
         two_hundred_large_messages_at_once_arrive_whole/1,
         a_node_that_ends_in_the_middle_of_a_message_does_no_harm/1]).
-export([a_connection_that_is_cut_between_two_fragments_does_no_harm/1,
         a_connection_that_is_cut_in_the_middle_of_an_answer_does_no_harm/1,
         a_reader_that_stops_keeps_nobody_waiting_and_is_cut/1,
         a_caller_of_a_node_that_ends_in_the_middle_of_the_answer_is_told/1,
         the_command_line_sends_and_takes_large_terms/1]).
-export([size_of/8]).

-define(MIB, 1048576).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, erlang_connects}, {group, rust_connects}, {group, either}].

groups() ->
    Both = [the_connection_was_made_by_whom_it_should,
            a_binary_of_64_mebibytes_comes_back_by_gen_server_call,
            a_binary_of_64_mebibytes_comes_back_by_rpc_call,
            a_binary_of_64_mebibytes_comes_back_as_a_message,
            the_rust_node_gets_a_large_answer_to_its_own_call,
            messages_to_one_process_keep_their_order,
            answers_to_aliases_keep_their_order,
            messages_to_names_and_pids_of_one_process_keep_their_order,
            two_hundred_large_messages_at_once_arrive_whole,
            a_node_that_ends_in_the_middle_of_a_message_does_no_harm],
    [{erlang_connects, [], Both}, {rust_connects, [], Both}, {either, [], grid:cases(?MODULE) -- Both}].

init_per_suite(Config) -> Config.

end_per_suite(_) -> grid:stop_since([]).

init_per_group(Group, Config) ->
    Role = case Group of rust_connects -> rust_connects; _ -> erlang_connects end,
    All = [{role, Role}, {rust, rust:start(rust, #{args => ["--echo"]})}, {beam, grid:peer(beam)}, {asker, grid:peer(asker)} | Config],
    connect(All, ?config(beam, All)),
    All.

end_per_group(_, _) -> grid:stop_since([]).

%% Whatever a case does: the connection to the Erlang node is the one that it was.
init_per_testcase(_, Config) -> [{running, grid:running()}, {connection, connection(Config, ?config(beam, Config))} | Config].

end_per_testcase(_, Config) ->
    grid:stop_since(?config(running, Config)),
    case connection(Config, ?config(beam, Config)) =:= ?config(connection, Config) of
        true -> ok;
        false -> {fail, the_connection_was_lost}
    end.

rust_node(Config) -> maps:get(node, ?config(rust, Config)).

%% One of the two connects, as the group has it.
connect(Config, Peer) ->
    Rust = rust_node(Config),
    case ?config(role, Config) of
        erlang_connects ->
            true = grid:call(Peer, net_kernel, connect_node, [Rust]);
        rust_connects ->
            %% A function there calls a process here on behalf of a third node.
            Pid = grid:on(Peer, fun() -> spawn(fun() -> answering(connected) end) end),
            connected = grid:call(?config(asker, Config), rpc, call, [Rust, redgrid, nodes, [Pid]])
    end.

%% Answers one call.
answering(Answer) -> receive {'$gen_call', From, _} -> gen_server:reply(From, Answer) end.

connection(Config, Peer) ->
    Rust = rust_node(Config),
    grid:on(Peer, fun() -> lists:keyfind(Rust, 1, erlang:system_info(dist_ctrl)) end).

%% Runs on the Erlang node, with the name of the Rust node.
on_beam(Config, Fun) ->
    Rust = rust_node(Config),
    grid:on(?config(beam, Config), fun() -> Fun(Rust) end).

large(Mebibytes) -> large(Mebibytes, <<>>).

%% No part of it is like another.
large(Mebibytes, Seed) ->
    Block = iolist_to_binary([crypto:hash(sha256, [Seed, <<N:32>>]) || N <- lists:seq(1, ?MIB div 32)]),
    iolist_to_binary([[<<N:32>>, binary:part(Block, 4, ?MIB - 4)] || N <- lists:seq(1, Mebibytes)]).

%% ---------------------------------------------------------------- there and back

%% Who was dialled has its own port at this end.
the_connection_was_made_by_whom_it_should(Config) ->
    {ok, Names} = net_adm:names({127, 0, 0, 1}),
    {_, Listening} = lists:keyfind("beam", 1, Names),
    {_, Socket} = connection(Config, ?config(beam, Config)),
    {ok, {_, Port}} = grid:call(?config(beam, Config), inet, sockname, [Socket]),
    ?assertEqual(?config(role, Config) =:= rust_connects, Port =:= Listening).

a_binary_of_64_mebibytes_comes_back_by_gen_server_call(Config) ->
    comes_back_beside_small_calls(Config, fun(Rust, Term) -> gen_server:call({echo, Rust}, Term, 50000) end).

a_binary_of_64_mebibytes_comes_back_by_rpc_call(Config) ->
    comes_back_beside_small_calls(Config, fun(Rust, Term) -> rpc:call(Rust, echo, echo, [Term], 50000) end).

a_binary_of_64_mebibytes_comes_back_as_a_message(Config) ->
    comes_back_beside_small_calls(Config, fun(Rust, Term) ->
        Ref = make_ref(),
        {echo, Rust} ! {self(), Ref, Term},
        receive {Ref, Back} -> Back after 50000 -> nothing_came end
    end).

%% Meanwhile others call and are answered, many times.
comes_back_beside_small_calls(Config, Way) ->
    {Same, Between} = on_beam(Config, fun(Rust) ->
        Large = large(64),
        Done = counters:new(1, []),
        Callers = [spawn_link(fun() -> calling(Rust, Done, 1) end) || _ <- lists:seq(1, 8)],
        grid:until(fun() -> counters:get(Done, 1) >= 100 end, 20000),
        Before = counters:get(Done, 1),
        Back = Way(Rust, Large),
        After = counters:get(Done, 1),
        [begin unlink(Caller), exit(Caller, kill) end || Caller <- Callers],
        {Back =:= Large, After - Before}
    end),
    grid:told("small calls meanwhile", Between),
    ?assert(Same),
    ?assert(Between >= 10).

calling(Rust, Done, N) ->
    N = gen_server:call({echo, Rust}, N, 30000),
    counters:add(Done, 1, 1),
    calling(Rust, Done, N + 1).

%% It calls a process of the Erlang node, whose answer comes to an alias of the Rust node.
the_rust_node_gets_a_large_answer_to_its_own_call(Config) ->
    ?assert(on_beam(Config, fun(Rust) ->
        Large = large(16),
        Answering = spawn(fun() -> answering({answer, Large}) end),
        {answer, Large} =:= rpc:call(Rust, redgrid, nodes, [Answering])
    end)).

%% ---------------------------------------------------------------- order

%% Large ones, each with small ones behind it. A message is told by its number.
sequence() ->
    One = large(8),
    [{N, case N rem 10 of 1 -> One; _ -> small end} || N <- lists:seq(1, 40)].

numbers(Terms) -> [N || {N, _} <- Terms].

messages_to_one_process_keep_their_order(Config) ->
    on_beam(Config, fun(Rust) ->
        Sent = sequence(),
        Ref = make_ref(),
        [{echo, Rust} ! {self(), Ref, Term} || Term <- Sent],
        Back = [receive {Ref, Term} -> Term after 30000 -> {none, none} end || _ <- Sent],
        ?assertEqual(numbers(Sent), numbers(Back)),
        ?assert(Sent =:= Back)
    end).

answers_to_aliases_keep_their_order(Config) ->
    on_beam(Config, fun(Rust) ->
        Sent = sequence(),
        _ = [gen_server:send_request({echo, Rust}, Term) || Term <- Sent],
        Back = [receive {[alias | _], Term} -> Term after 30000 -> {none, none} end || _ <- Sent],
        ?assertEqual(numbers(Sent), numbers(Back)),
        ?assert(Sent =:= Back)
    end).

%% By its name and by its pid, with an alias and without.
messages_to_names_and_pids_of_one_process_keep_their_order(Config) ->
    on_beam(Config, fun(Rust) ->
        Sent = sequence(),
        Pid = rpc:call(Rust, erlang, whereis, [echo]),
        _ = [case N rem 4 of
                 0 -> {echo, Rust} ! {self(), bare, Term};
                 1 -> Pid ! {self(), bare, Term};
                 2 -> gen_server:send_request({echo, Rust}, Term);
                 3 -> gen_server:send_request(Pid, Term)
             end || {N, _} = Term <- Sent],
        Back = [receive {bare, Term} -> Term; {[alias | _], Term} -> Term after 30000 -> {none, none} end || _ <- Sent],
        ?assertEqual(numbers(Sent), numbers(Back)),
        ?assert(Sent =:= Back)
    end).

two_hundred_large_messages_at_once_arrive_whole(Config) ->
    ?assertEqual([], on_beam(Config, fun(Rust) ->
        Callers = [{N, spawn_monitor(fun() ->
                                             Mine = large(1, <<N:32>>),
                                             exit({came, Mine =:= gen_server:call({echo, Rust}, Mine, 50000)})
                                     end)} || N <- lists:seq(1, 200)],
        Ends = [{N, receive {'DOWN', Ref, process, Pid, Why} -> Why after 55000 -> nothing_came end} || {N, {Pid, Ref}} <- Callers],
        [{N, Why} || {N, Why} <- Ends, Why =/= {came, true}]
    end)).

%% ---------------------------------------------------------------- to go away in the middle

healthy(Config) ->
    ?assertEqual(0, rust:said(?config(rust, Config), "panicked")),
    ?assert(on_beam(Config, fun(Rust) -> Large = large(16), Large =:= gen_server:call({echo, Rust}, Large, 30000) end)).

%% Eight of its processes do nothing but send large messages.
a_node_that_ends_in_the_middle_of_a_message_does_no_harm(Config) ->
    Rust = rust_node(Config),
    lists:foreach(fun(Round) ->
        Name = list_to_atom(lists:concat([talker, Round, '_', ?config(role, Config)])),
        #{node := Node} = Talker = grid:peer(Name),
        connect(Config, Talker),
        grid:on(Talker, fun() ->
            Large = large(8),
            Flood = fun Flood() -> {echo, Rust} ! {self(), ref, Large}, Flood() end,
            [spawn(Flood) || _ <- lists:seq(1, 8)],
            {_, Socket} = lists:keyfind(Rust, 1, erlang:system_info(dist_ctrl)),
            grid:until(fun() ->
                {ok, [{send_oct, Sent}]} = inet:getstat(Socket, [send_oct]),
                Sent > 20 * ?MIB
            end, 30000)
        end),
        try grid:call(Talker, erlang, halt, [0, [{flush, false}]]) catch _:_ -> ok end,
        rust:saying(?config(rust, Config), ["disconnected.*", atom_to_list(Node)])
    end, [1, 2, 3]),
    healthy(Config).

wire(Config, Name) ->
    {ok, Wire} = wire:connect(maps:get(port, ?config(rust, Config)), Name, erlang:get_cookie(), wire:flags([cache, fragments])),
    Wire.

a_connection_that_is_cut_between_two_fragments_does_no_harm(Config) ->
    Part = binary:copy(<<"x">>, 65536),
    lists:foreach(fun(_) ->
        Wire = wire(Config, 'cut@127.0.0.1'),
        To = {6, wire:pid(Wire), '', echo},
        [begin
             ok = wire:send(Wire, wire:first(Sequence, 1024, [], To, Part)),
             [ok = wire:send(Wire, wire:next(Sequence, 1024 - N, Part)) || N <- lists:seq(1, 200)]
         end || Sequence <- [1, 2]],
        ?assert(wire:alive(Wire)),
        wire:close(Wire)
    end, lists:seq(1, 5)),
    healthy(Config).

a_connection_that_is_cut_in_the_middle_of_an_answer_does_no_harm(Config) ->
    Binary = binary:copy(<<"x">>, 64 * ?MIB),
    lists:foreach(fun(Number) ->
        Name = list_to_atom(lists:concat([half, Number, '@127.0.0.1'])),
        Wire = wire(Config, Name),
        ok = wire:frame(Wire, {6, wire:pid(Wire), '', echo}, {wire:pid(Wire), ref, Binary}),
        #{kind := first} = wire:receive_part(Wire, 30000),
        [#{kind := next} = wire:receive_part(Wire, 30000) || _ <- lists:seq(1, 100)],
        wire:close(Wire),
        rust:saying(?config(rust, Config), ["disconnected.*", atom_to_list(Name)])
    end, [1, 2, 3]),
    healthy(Config).

%% It goes on ticking, so it is not its silence that tells.
a_reader_that_stops_keeps_nobody_waiting_and_is_cut(_) ->
    #{node := Node, port := Port} = Rust = rust:start(impatient, #{args => ["--echo", "--net-ticktime", "4"]}),
    Quick = grid:peer(quick, #{args => ["-kernel", "net_ticktime", "4"]}),
    pong = grid:call(Quick, net_adm, ping, [Node]),
    {ok, Deaf} = wire:connect(Port, 'deaf@127.0.0.1', erlang:get_cookie(), wire:flags([cache, fragments])),
    ok = wire:narrow(Deaf),
    Pid = wire:pid(Deaf),
    ok = wire:frame(Deaf, {6, Pid, '', echo}, {Pid, ref, binary:copy(<<"x">>, 64 * ?MIB)}),
    Ticking = spawn_link(fun Tick() -> case wire:send(Deaf, <<>>) of
                                           ok -> receive after 300 -> Tick() end;
                                           {error, _} -> ok
                                       end
                         end),
    %% The answer has begun, and stays where it is.
    #{kind := first} = wire:receive_part(Deaf, 30000),
    %% Another node is served, and who asks the deaf one by way of the Rust node is told in the end.
    Asked = grid:on(Quick, fun() ->
        {Asking, Ref} = spawn_monitor(fun() -> exit(rpc:call(Node, redgrid, nodes, [Pid], 30000)) end),
        [N = gen_server:call({echo, Node}, N) || N <- lists:seq(1, 2000)],
        Large = large(16),
        true = Large =:= gen_server:call({echo, Node}, Large, 30000),
        receive {'DOWN', Ref, process, Asking, Why} -> Why after 40000 -> nothing_came end
    end),
    ?assertMatch({badrpc, {'EXIT', {Why, _}}} when Why =:= timeout; Why =:= noconnection, Asked),
    rust:saying(Rust, "disconnected.*deaf@127.0.0.1.*does not read what it is sent"),
    ?assert(wire:closed(Deaf, 10000)),
    ?assertEqual(0, rust:said(Rust, "disconnected.*quick@127.0.0.1")),
    unlink(Ticking),
    exit(Ticking, kill),
    wire:close(Deaf).

%% The Rust node is killed while its answer is under way.
a_caller_of_a_node_that_ends_in_the_middle_of_the_answer_is_told(_) ->
    #{node := Node} = Victim = rust:start(victim, #{args => ["--echo"]}),
    Caller = grid:peer(caller),
    pong = grid:call(Caller, net_adm, ping, [Node]),
    Calling = grid:on(Caller, fun() ->
        Calling = spawn(fun() ->
            Large = large(64),
            Loop = fun Loop() -> gen_server:call({echo, Node}, Large, infinity), Loop() end,
            %% All of the reason would have the 64 MiB in it.
            End = try Loop() catch exit:{Why, {gen_server, call, _}} -> Why end,
            receive {tell, To} -> To ! End end
        end),
        {_, Socket} = lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)),
        grid:until(fun() ->
            {ok, [{recv_oct, Received}]} = inet:getstat(Socket, [recv_oct]),
            Received > 70 * ?MIB
        end, 30000),
        Calling
    end),
    rust:kill(Victim),
    ?assertEqual({nodedown, Node}, grid:on(Caller, fun() ->
        Calling ! {tell, self()},
        receive End -> End after 20000 -> nothing_came end
    end)),
    ?assertEqual([], grid:call(Caller, erlang, nodes, [])).

%% ---------------------------------------------------------------- the command line

size_of(A, B, C, D, E, F, G, H) -> lists:sum([byte_size(X) || X <- [A, B, C, D, E, F, G, H]]).

%% The system takes no argument of more than 128 KiB.
the_command_line_sends_and_takes_large_terms(Config) ->
    #{node := Beam} = ?config(beam, Config),
    Target = atom_to_list(Beam),
    Argument = "<<\"" ++ lists:duplicate(100000, $x) ++ "\">>",
    ?assertEqual({0, "800000"},
                 rust:run(["call", Target, atom_to_list(?MODULE), "size_of" | lists:duplicate(8, Argument)])),
    {0, Text} = rust:run(["call", Target, "binary", "copy", "<<\"y\">>", integer_to_list(?MIB), "--timeout", "30"]),
    ?assertEqual(?MIB, length([C || C <- Text, C =:= $y])),
    {0, "pong" ++ _} = rust:run(["ping", Target]).
