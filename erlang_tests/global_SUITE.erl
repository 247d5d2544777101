%% `global` on the Erlang nodes goes on as if the Rust node were not there: nothing waits for it.
%%
%% Each promise is one of milliseconds; it is held to five seconds, and what it took is told.
-module(global_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([sync_returns/1,
         a_lock_is_set_and_deleted/1,
         a_transaction_runs/1,
         a_name_is_registered_and_seen_by_the_other_erlang_node/1,
         a_name_goes_with_its_process/1,
         world_returns/1,
         two_erlang_nodes_join_and_register_while_both_are_connected/1,
         losing_the_rust_node_parts_no_erlang_nodes/1,
         losing_an_erlang_node_does_not_part_the_others_from_the_rust_node/1,
         names_are_registered_while_rust_nodes_come_and_go/1,
         a_hidden_rust_node_is_nothing_to_global/1,
         a_process_group_is_joined_on_all_erlang_nodes/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

%% The Rust node's name is the greatest: `global` asks the node with the greatest name first.
init_per_suite(Config) ->
    #{node := Rust} = rust:start(zrust),
    One = grid:peer(one),
    Two = grid:peer(two),
    pong = grid:call(One, net_adm, ping, [Rust]),
    pong = grid:call(Two, net_adm, ping, [Rust]),
    pong = grid:call(One, net_adm, ping, [maps:get(node, Two)]),
    [{rust, Rust}, {one, One}, {two, Two} | Config].

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

%% Runs on an Erlang node, and says how long it took.
within_five_seconds(What, Peer, Fun) ->
    {Microseconds, Result} = grid:on(Peer, fun() -> timer:tc(Fun) end),
    grid:measured([What, " on ", atom_to_list(maps:get(node, Peer))], Microseconds / 1000),
    ?assert(Microseconds < 5000000),
    Result.

%% One Erlang node with the Rust node alone, then one of two that have it.
alone_and_together(Config, What, Fun) ->
    Alone = grid:peer(alone),
    pong = grid:call(Alone, net_adm, ping, [?config(rust, Config)]),
    within_five_seconds(What ++ ", alone with the Rust node", Alone, Fun),
    grid:stop(Alone),
    within_five_seconds(What, ?config(one, Config), Fun),
    ?assert(lists:member(?config(rust, Config), grid:call(?config(one, Config), erlang, nodes, []))).

sync_returns(Config) ->
    alone_and_together(Config, "global:sync/0", fun() -> ?assertEqual(ok, global:sync()) end).

a_lock_is_set_and_deleted(Config) ->
    alone_and_together(Config, "global:set_lock/1 and del_lock/1", fun() ->
        ?assertEqual(true, global:set_lock({a_resource, self()})),
        ?assertEqual(true, global:set_lock({a_resource, self()}, [node() | nodes()], 0)),
        ?assertEqual(false, global:set_lock({a_resource, someone_else}, [node() | nodes()], 0)),
        ?assertEqual(true, global:del_lock({a_resource, self()})),
        ?assertEqual(true, global:del_lock({a_resource, self()}, [node() | nodes()]))
    end).

a_transaction_runs(Config) ->
    alone_and_together(Config, "global:trans/2", fun() ->
        ?assertEqual(done, global:trans({a_resource, self()}, fun() -> done end))
    end).

a_name_is_registered_and_seen_by_the_other_erlang_node(Config) ->
    #{node := Two} = ?config(two, Config),
    within_five_seconds("global:register_name/2", ?config(one, Config), fun() ->
        Pid = spawn(fun() -> receive stop -> ok end end),
        ?assertEqual(yes, global:register_name(a_name, Pid)),
        ?assertEqual(Pid, erpc:call(Two, global, whereis_name, [a_name])),
        ?assertEqual(no, erpc:call(Two, global, register_name, [a_name, whereis(init)])),
        _ = global:unregister_name(a_name),
        ?assertEqual(undefined, erpc:call(Two, global, whereis_name, [a_name])),
        Pid ! stop
    end).

a_name_goes_with_its_process(Config) ->
    #{node := Two} = ?config(two, Config),
    grid:on(?config(one, Config), fun() ->
        Pid = spawn(fun() -> receive stop -> ok end end),
        ?assertEqual(yes, global:register_name(mortal, Pid)),
        Pid ! stop,
        grid:until(fun() -> erpc:call(Two, global, whereis_name, [mortal]) =:= undefined end, 5000)
    end).

%% It pings every node that epmd knows, and ends with global:sync/0.
world_returns(Config) ->
    Rust = ?config(rust, Config),
    Explorer = grid:peer(explorer),
    Found = within_five_seconds("net_adm:world_list/1", Explorer, fun() -> net_adm:world_list(['127.0.0.1']) end),
    ?assert(lists:member(Rust, Found)),
    ?assert(lists:member(Rust, grid:call(Explorer, erlang, nodes, []))),
    %% The node of the suite was among them; it had been alone until now.
    grid:stop(Explorer),
    [erlang:disconnect_node(Node) || Node <- erlang:nodes(connected)],
    grid:until(fun() -> erlang:nodes(connected) =:= [] end, 5000).

two_erlang_nodes_join_and_register_while_both_are_connected(Config) ->
    Rust = ?config(rust, Config),
    A = grid:peer(newcomer_a),
    B = #{node := NodeB} = grid:peer(newcomer_b),
    pong = grid:call(A, net_adm, ping, [Rust]),
    pong = grid:call(B, net_adm, ping, [Rust]),
    within_five_seconds("a join of two Erlang nodes, and a name", A, fun() ->
        pong = net_adm:ping(NodeB),
        ok = global:sync(),
        Pid = spawn(fun() -> receive stop -> ok end end),
        ?assertEqual(yes, global:register_name(joined, Pid)),
        grid:until(fun() -> erpc:call(NodeB, global, whereis_name, [joined]) =:= Pid end, 5000),
        Pid ! stop
    end).

losing_the_rust_node_parts_no_erlang_nodes(Config) ->
    {One, #{node := NodeTwo} = Two} = {?config(one, Config), ?config(two, Config)},
    #{node := Node} = Rust = rust:start(zz_short_lived),
    pong = grid:call(One, net_adm, ping, [Node]),
    pong = grid:call(Two, net_adm, ping, [Node]),
    Parted = parted(One, NodeTwo),
    rust:kill(Rust),
    grid:until(fun() -> not lists:member(Node, grid:call(One, erlang, nodes, [])) end, 5000),
    ?assertEqual(ok, grid:call(One, global, sync, [])),
    ?assertEqual(no, Parted()).

losing_an_erlang_node_does_not_part_the_others_from_the_rust_node(Config) ->
    Rust = ?config(rust, Config),
    One = ?config(one, Config),
    Third = #{node := NodeThird} = grid:peer(third),
    pong = grid:call(Third, net_adm, ping, [Rust]),
    pong = grid:call(One, net_adm, ping, [NodeThird]),
    Parted = parted(One, Rust),
    true = grid:call(Third, erlang, disconnect_node, [maps:get(node, One)]),
    grid:until(fun() -> not lists:member(NodeThird, grid:call(One, erlang, nodes, [])) end, 5000),
    ?assertEqual(ok, grid:call(One, global, sync, [])),
    ?assertEqual(no, Parted()),
    ?assert(lists:member(Rust, grid:call(Third, erlang, nodes, []))).

names_are_registered_while_rust_nodes_come_and_go(Config) ->
    One = ?config(one, Config),
    lists:foreach(fun(Round) ->
        #{node := Node} = Rust = rust:start(zz_restless),
        Test = self(),
        Pinging = spawn_link(fun() -> Test ! {self(), grid:call(One, net_adm, ping, [Node])} end),
        within_five_seconds("a name in round " ++ integer_to_list(Round), One, fun() ->
            ?assertEqual(yes, global:register_name({name, Round}, self())),
            global:unregister_name({name, Round})
        end),
        receive {Pinging, Pong} -> ?assertEqual(pong, Pong) end,
        rust:kill(Rust)
    end, lists:seq(1, 3)).

%% It comes and goes while names are registered, and is never in nodes().
a_hidden_rust_node_is_nothing_to_global(Config) ->
    One = ?config(one, Config),
    #{node := Node} = Rust = rust:start(zz_ghost, #{args => ["--hidden"]}),
    [pong = grid:call(?config(Peer, Config), net_adm, ping, [Node]) || Peer <- [one, two]],
    within_five_seconds("a name beside a hidden Rust node", One, fun() ->
        ?assertEqual(ok, global:sync()),
        ?assertEqual(yes, global:register_name(beside_a_ghost, self())),
        ?assertEqual(self(), erpc:call(hd([N || N <- nodes(), N =/= ?config(rust, Config)]), global, whereis_name, [beside_a_ghost])),
        ?assert(lists:member(Node, nodes(hidden))),
        ?assertNot(lists:member(Node, nodes())),
        global:unregister_name(beside_a_ghost)
    end),
    Parted = parted(One, maps:get(node, ?config(two, Config))),
    rust:kill(Rust),
    grid:until(fun() -> not lists:member(Node, grid:call(One, erlang, nodes, [hidden])) end, 5000),
    ?assertEqual(ok, grid:call(One, global, sync, [])),
    ?assertEqual(no, Parted()).

a_process_group_is_joined_on_all_erlang_nodes(Config) ->
    #{node := NodeTwo} = Two = ?config(two, Config),
    One = ?config(one, Config),
    Start = fun() -> {ok, Pid} = pg:start(a_scope), unlink(Pid), Pid end,
    Scopes = [{Peer, grid:on(Peer, Start)} || Peer <- [One, Two]],
    Member = grid:on(One, fun() ->
        Pid = spawn(fun() -> receive stop -> ok end end),
        ok = pg:join(a_scope, a_group, Pid),
        grid:until(fun() -> erpc:call(NodeTwo, pg, get_members, [a_scope, a_group]) =:= [Pid] end, 5000),
        Pid
    end),
    grid:on(One, fun() -> Member ! stop end),
    [grid:on(Peer, fun() -> gen_server:stop(Scope) end) || {Peer, Scope} <- Scopes].

%% Watches whether Peer loses Node, be it for a moment; the answer comes when it is asked for.
parted(Peer, Node) ->
    Watcher = grid:on(Peer, fun() ->
        Pid = spawn(fun() ->
            true = monitor_node(Node, true),
            receive {nodedown, Node} -> receive {tell, To} -> To ! yes end; {tell, To} -> To ! no end
        end),
        grid:until(fun() -> process_info(Pid, status) =:= {status, waiting} end, 5000),
        Pid
    end),
    fun() -> grid:on(Peer, fun() -> Watcher ! {tell, self()}, receive Answer -> Answer after 5000 -> nothing end end) end.
