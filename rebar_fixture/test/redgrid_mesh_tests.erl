%% Real nodes, a real Redis and an epmd of its own: what the library promises, seen from outside.
-module(redgrid_mesh_tests).
-include_lib("eunit/include/eunit.hrl").
-define(S, redgrid_test_servers).

-record(mesh, {redis, epmd}).

mesh_test_() ->
    {setup, fun start/0, fun stop/1,
     fun(Mesh) ->
             {inorder,
              [{timeout, 120, {Name, fun() -> Test(Mesh) end}}
               || {Name, Test} <- [{"two nodes find each other and see each other's meta", fun find_each_other/1},
                                   {"a node killed leaves at once and is back when it is started again", fun killed/1},
                                   {"a suspended node is left out and comes back", fun suspended/1},
                                   {"a broken connection heals", fun broken/1},
                                   {"Redis can come late, go away and come back empty", fun redis_away/1},
                                   {"an emptied Redis is filled again", fun emptied/1},
                                   {"members of the older libraries are found", fun older_libraries/1},
                                   {"rubbish in Redis disturbs nobody", fun rubbish/1},
                                   {"another scope is another mesh", fun other_scope/1},
                                   {"the host of a name leads to the registered ip", fun host_table/1}]]}
     end}.

start() -> #mesh{redis = ?S:redis(), epmd = ?S:epmd()}.

stop(#mesh{redis = Redis, epmd = Epmd}) ->
    ?S:stop(Redis),
    ?S:stop(Epmd).

%% A fresh domain for every test: they share one Redis.
member(Mesh, Name, Domain) -> member(Mesh, Name, Domain, []).

member(#mesh{redis = Redis, epmd = Epmd}, Name, Domain, Options) ->
    Env = [{"ERL_EPMD_PORT", integer_to_list(?S:port(Epmd))}, {"REDIS_URL", proplists:get_value(redis, Options, ?S:url(Redis))},
           {"DOMAIN", Domain}, {"VERSION", proplists:get_value(version, Options, "")},
           {"LOCAL_IP", proplists:get_value(ip, Options, "")}, {"LOGLEVEL", "warning"}],
    {ok, Peer, _} = peer:start(#{connection => standard_io, wait_boot => 30000, env => Env,
                                 args => ["-name", Name, "-setcookie", "mesh_tests", "-pa",
                                          filename:dirname(code:which(?MODULE)), filename:dirname(code:which(redgrid))]}),
    {ok, _} = call(Peer, application, ensure_all_started, [redgrid]),
    Peer.

call(Peer, M, F, A) -> peer:call(Peer, M, F, A, 20000).
view(Peer) -> call(Peer, redgrid, nodes, []).
names(Peer) -> [Node || {Node, _} <- view(Peer)].
until(Fun) -> ?S:wait_until(Fun, 60000).
sees(Peer, Names) -> until(fun() -> Seen = names(Peer), Seen =:= Names orelse Seen end).

command(#mesh{redis = Redis}, Commands) ->
    {ok, Address} = redgrid_redis:parse_url(?S:url(Redis)),
    {ok, Pid} = redgrid_redis:start_link(Address, self()),
    Replies = redgrid_redis:pipeline(Pid, Commands),
    unlink(Pid),
    redgrid_redis:stop(Pid),
    Replies.

find_each_other(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "find"),
    Bar = member(Mesh, "bar@127.0.0.1", "find"),
    sees(Foo, ['foo@127.0.0.1', 'bar@127.0.0.1']),
    sees(Bar, ['bar@127.0.0.1', 'foo@127.0.0.1']),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    ok = call(Foo, redgrid, update_meta, [[{weight, 0}, {role, "web"}, ready]]),
    Native = [{'bar@127.0.0.1', [{ip, "127.0.0.1"}]},
              {'foo@127.0.0.1', [{ip, "127.0.0.1"}, {weight, 0}, {role, "web"}, {ready, true}]}],
    until(fun() -> call(Bar, redgrid, nodes, [[native]]) =:= Native end),
    ?assertEqual({'foo@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}, {<<"weight">>, <<"0">>}, {<<"role">>, <<"web">>},
                                    {<<"ready">>, <<"true">>}]}, lists:keyfind('foo@127.0.0.1', 1, view(Bar))),
    %% The messages of the original, across nodes; a key that is not named any more is gone everywhere.
    ?assertEqual(view(Foo), call(Bar, redgrid, nodes, [{redgrid, 'foo@127.0.0.1'}])),
    ok = call(Bar, gen_server, cast, [{redgrid, 'foo@127.0.0.1'}, {update_meta, [{weight, 1}]}]),
    until(fun() -> lists:keyfind('foo@127.0.0.1', 1, view(Bar))
                       =:= {'foo@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}, {<<"weight">>, <<"1">>}]} end),
    ?assertEqual(unknown_message, call(Bar, gen_server, call, [{redgrid, 'foo@127.0.0.1'}, what])),
    ?assertEqual({error, {bad_meta, {reserved_key, ip}}}, call(Foo, redgrid, update_meta, [[{ip, "1.2.3.4"}]])),
    [Classic, Info, Ttl] = command(Mesh, [["HGETALL", "redgrid:find::foo@127.0.0.1"],
                                          ["HGET", "redgrid.info:find::foo@127.0.0.1", "port"],
                                          ["TTL", "redgrid:find::foo@127.0.0.1"]]),
    ?assertEqual([<<"ip">>, <<"127.0.0.1">>, <<"weight">>, <<"1">>], Classic),
    ?assert(binary_to_integer(Info) > 0),
    ?assert(Ttl > 30 andalso Ttl =< 60),
    {ok, Map} = call(Bar, redgrid, node_info, ['foo@127.0.0.1']),
    ?assertMatch(#{connected := true, status := <<"up">>, hidden := false, address := <<"127.0.0.1">>, state := up}, Map),
    ?assertEqual({error, not_found}, call(Bar, redgrid, node_info, ['none@127.0.0.1'])),
    %% Stopped as an application, the node says so and takes its keys along.
    ok = call(Foo, application, stop, [redgrid]),
    sees(Bar, ['bar@127.0.0.1']),
    ?assertEqual([0, undefined], command(Mesh, [["EXISTS", "redgrid:find::foo@127.0.0.1", "redgrid.info:find::foo@127.0.0.1"],
                                                ["ZSCORE", "redgrid.index:find:", "foo@127.0.0.1"]])),
    peer:stop(Foo),
    peer:stop(Bar).

killed(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "kill"),
    Bar = member(Mesh, "bar@127.0.0.1", "kill"),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    kill(Foo),
    ?S:wait_until(fun() -> names(Bar) =:= ['bar@127.0.0.1'] end, 5000),
    ?assertEqual([1], command(Mesh, [["EXISTS", "redgrid:kill::foo@127.0.0.1"]])),
    Again = member(Mesh, "foo@127.0.0.1", "kill"),
    sees(Bar, ['bar@127.0.0.1', 'foo@127.0.0.1']),
    sees(Again, ['foo@127.0.0.1', 'bar@127.0.0.1']),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    peer:stop(Again),
    peer:stop(Bar).

kill(Peer) ->
    Pid = call(Peer, os, getpid, []),
    unlink(Peer),
    [] = os:cmd("kill -9 " ++ Pid),
    ok.

suspended(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "susp"),
    Bar = member(Mesh, "bar@127.0.0.1", "susp"),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    ok = call(Foo, redgrid, suspend, []),
    ?assertEqual(suspended, call(Foo, redgrid, get_status, [])),
    sees(Bar, ['bar@127.0.0.1']),
    ?assertMatch({ok, #{status := <<"suspended">>, connected := true}}, call(Bar, redgrid, node_info, ['foo@127.0.0.1'])),
    ?assertEqual([0, <<"suspended">>], command(Mesh, [["EXISTS", "redgrid:susp::foo@127.0.0.1"],
                                                      ["HGET", "redgrid.info:susp::foo@127.0.0.1", "status"]])),
    %% A ping and new meta do not bring it back.
    _ = command(Mesh, [["PUBLISH", "redgrid:susp:", "ping"]]),
    ok = call(Foo, redgrid, update_meta, [[{a, 1}]]),
    {ok, _} = call(Bar, redgrid, node_info, ['foo@127.0.0.1']),
    ?assertEqual(['bar@127.0.0.1'], names(Bar)),
    ?assertEqual([0], command(Mesh, [["EXISTS", "redgrid:susp::foo@127.0.0.1"]])),
    %% Who joins later finds it by asking only.
    Baz = member(Mesh, "baz@127.0.0.1", "susp"),
    sees(Baz, ['baz@127.0.0.1', 'bar@127.0.0.1']),
    ?assertMatch({ok, #{status := <<"suspended">>}}, call(Baz, redgrid, node_info, ['foo@127.0.0.1'])),
    ok = call(Foo, redgrid, resume, []),
    sees(Bar, ['bar@127.0.0.1', 'baz@127.0.0.1', 'foo@127.0.0.1']),
    sees(Baz, ['baz@127.0.0.1', 'bar@127.0.0.1', 'foo@127.0.0.1']),
    [peer:stop(Peer) || Peer <- [Foo, Bar, Baz]].

broken(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "broken"),
    Bar = member(Mesh, "bar@127.0.0.1", "broken"),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    sees(Bar, ['bar@127.0.0.1', 'foo@127.0.0.1']),
    true = call(Bar, erlang, disconnect_node, ['foo@127.0.0.1']),
    ?assertEqual(['bar@127.0.0.1'], names(Bar)),
    sees(Bar, ['bar@127.0.0.1', 'foo@127.0.0.1']),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    peer:stop(Foo),
    peer:stop(Bar).

redis_away(Mesh) ->
    Port = ?S:free_port(),
    Own = [{redis, "redis://127.0.0.1:" ++ integer_to_list(Port) ++ "/"}],
    Foo = member(Mesh, "foo@127.0.0.1", "away", Own),
    ?assertEqual(['foo@127.0.0.1'], names(Foo)),
    ok = call(Foo, redgrid, update_meta, [[{weight, 5}]]),
    First = ?S:redis([{port, Port}]),
    Bar = member(Mesh, "bar@127.0.0.1", "away", Own),
    sees(Bar, ['bar@127.0.0.1', 'foo@127.0.0.1']),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@127.0.0.1'] end),
    View = view(Bar),
    ?S:stop(First),
    ?assertEqual(View, view(Bar)),
    ?assertEqual(['foo@127.0.0.1'], call(Bar, erlang, nodes, [])),
    ok = call(Foo, redgrid, update_meta, [[{weight, 6}]]),
    Second = ?S:redis([{port, Port}]),
    until(fun() -> lists:keyfind('foo@127.0.0.1', 1, view(Bar))
                       =:= {'foo@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}, {<<"weight">>, <<"6">>}]} end),
    peer:stop(Foo),
    peer:stop(Bar),
    ?S:stop(Second).

emptied(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "empty"),
    ok = call(Foo, redgrid, update_meta, [[{weight, 1}]]),
    until(fun() -> command(Mesh, [["HGET", "redgrid:empty::foo@127.0.0.1", "weight"]]) =:= [<<"1">>] end),
    [<<"OK">>] = command(Mesh, [["FLUSHALL"]]),
    until(fun() -> command(Mesh, [["HGET", "redgrid:empty::foo@127.0.0.1", "weight"],
                                  ["EXISTS", "redgrid.info:empty::foo@127.0.0.1"]]) =:= [<<"1">>, 1] end),
    peer:stop(Foo).

older_libraries(Mesh) ->
    %% One that never publishes, and one that does, as the Erlang redgrid of 2013.
    _ = command(Mesh, [["HSET", "redgrid:old::polls@127.0.0.1", "ip", "127.0.0.1", "weight", "3"],
                       ["EXPIRE", "redgrid:old::polls@127.0.0.1", 20]]),
    Foo = member(Mesh, "foo@127.0.0.1", "old"),
    sees(Foo, ['foo@127.0.0.1', 'polls@127.0.0.1']),
    %% Its own scan lock, of an earlier life, keeps nobody from finding them again.
    kill(Foo),
    Again = member(Mesh, "foo@127.0.0.1", "old"),
    sees(Again, ['foo@127.0.0.1', 'polls@127.0.0.1']),
    _ = command(Mesh, [["HSET", "redgrid:old::tells@127.0.0.1", "ip", "127.0.0.1", "weight", "4"],
                       ["EXPIRE", "redgrid:old::tells@127.0.0.1", 20],
                       ["PUBLISH", "redgrid:old:", "redgrid:old::tells@127.0.0.1"]]),
    sees(Again, ['foo@127.0.0.1', 'polls@127.0.0.1', 'tells@127.0.0.1']),
    %% Not connected: its text stays text also where native terms are asked for.
    ?assertEqual({'polls@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}, {<<"weight">>, <<"3">>}]},
                 lists:keyfind('polls@127.0.0.1', 1, call(Again, redgrid, nodes, [[native]]))),
    %% Never connected, they leave when their registrations end.
    until(fun() -> names(Again) =:= ['foo@127.0.0.1'] end),
    peer:stop(Again).

rubbish(Mesh) ->
    _ = command(Mesh, [["SET", "redgrid:bad::string@127.0.0.1", "x"], ["HSET", "redgrid:bad::noip@127.0.0.1", "a", "b"],
                       ["HSET", "redgrid:bad::no node name", "ip", "127.0.0.1"],
                       ["HSET", "redgrid:bad::multicast@224.0.0.1", "ip", "224.0.0.1"],
                       ["HSET", "redgrid:bad::info@127.0.0.1", "ip", "127.0.0.1"],
                       ["HSET", "redgrid.info:bad::info@127.0.0.1", "port", "x", "creation", "-1", "meta", <<131, 80, 0, 0>>]]),
    Foo = member(Mesh, "foo@127.0.0.1", "bad"),
    Pid = call(Foo, erlang, whereis, [redgrid]),
    [_ = command(Mesh, [["PUBLISH", Channel, Data]])
     || Channel <- ["redgrid:bad:", "redgrid.events:bad:"],
        Data <- [<<>>, <<0, 255>>, <<131, 80, 255, 255, 255, 255, 0>>, binary:copy(<<"redgrid:bad::">>, 1000),
                 "redgrid:bad::string@127.0.0.1", term_to_binary(#{<<"event">> => <<"joined">>, <<"node">> => <<"x@y@z">>})]],
    until(fun() -> lists:member('info@127.0.0.1', names(Foo)) end),
    Bar = member(Mesh, "bar@127.0.0.1", "bad"),
    until(fun() -> lists:member('bar@127.0.0.1', names(Foo)) end),
    ?assertEqual(Pid, call(Foo, erlang, whereis, [redgrid])),
    ?assertEqual([], [N || N <- names(Foo), lists:member(N, ['string@127.0.0.1', 'noip@127.0.0.1'])]),
    {ok, Info} = call(Foo, redgrid, node_info, ["multicast@224.0.0.1"]),
    ?assertMatch(#{not_dialled := forbidden_address}, Info),
    peer:stop(Foo),
    peer:stop(Bar).

other_scope(Mesh) ->
    Foo = member(Mesh, "foo@127.0.0.1", "scope"),
    Bar = member(Mesh, "bar@127.0.0.1", "scope", [{version, "2"}]),
    Baz = member(Mesh, "baz@127.0.0.1", "scope"),
    sees(Foo, ['foo@127.0.0.1', 'baz@127.0.0.1']),
    ?assertEqual(['bar@127.0.0.1'], names(Bar)),
    [peer:stop(Peer) || Peer <- [Foo, Bar, Baz]].

host_table(Mesh) ->
    Foo = member(Mesh, "foo@one.redgrid.invalid", "hosts", [{ip, "127.0.0.1"}]),
    Bar = member(Mesh, "bar@two.redgrid.invalid", "hosts", [{ip, "127.0.0.1"}]),
    until(fun() -> call(Bar, erlang, nodes, []) =:= ['foo@one.redgrid.invalid'] end),
    sees(Foo, ['foo@one.redgrid.invalid', 'bar@two.redgrid.invalid']),
    peer:stop(Foo),
    peer:stop(Bar).

a_node_without_a_name_is_told_so_test() ->
    ?assertMatch({error, {not_distributed, _}}, redgrid:start_link()).
