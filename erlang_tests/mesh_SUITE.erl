%% The mesh: Rust nodes and Erlang nodes with the library of rebar_fixture/ find each other through Redis.
%% What is in Redis for it, and what other programs may do there, is in registration_SUITE.
-module(mesh_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([all_members_are_connected_and_listed_by_all/1,
         nodes_gives_its_own_node_first_and_the_others_by_name/1,
         nodes_native_gives_the_types_that_were_given/1,
         nodes_of_a_process_asks_that_process/1,
         update_meta_by_rpc_replaces_everywhere/1,
         update_meta_by_erpc_replaces_everywhere/1,
         update_meta_by_gen_server_call_replaces_everywhere/1,
         update_meta_by_gen_server_cast_replaces_everywhere/1,
         update_meta_with_a_server_replaces_everywhere/1,
         meta_may_be_a_map_and_have_any_kind_of_text/1,
         meta_of_an_erlang_node_is_seen_with_its_types/1,
         bad_meta_is_refused_and_changes_nothing/1,
         a_suspended_node_is_left_out_until_it_resumes/1,
         node_info_tells_all_that_is_known/1,
         two_rust_nodes_find_each_other/1,
         a_hidden_rust_node_is_a_hidden_member/1,
         another_domain_or_version_is_never_listed/1,
         all_versions_are_members_where_that_is_asked_for/1,
         a_node_with_another_cookie_is_not_connected/1,
         a_node_that_leaves_is_out_at_once/1,
         a_node_that_is_killed_is_out_at_once/1,
         a_node_that_is_killed_and_started_at_once_is_in_again/1,
         an_erlang_node_that_is_killed_is_out_of_the_view_of_rust_at_once/1,
         a_name_that_is_taken_elsewhere_is_not_taken_over/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

-define(THREE, ['bar@127.0.0.1', 'foo@127.0.0.1', 'rust@127.0.0.1']).
-define(META, ["--meta", "lang:=rust", "--meta", "weight=0"]).

init_per_suite(Config) ->
    Redis = grid:redis(),
    Rust = start(rust, Redis, ?META),
    All = [{redis, Redis}, {rust, Rust}, {foo, member(foo, Redis)}, {bar, member(bar, Redis)} | Config],
    together(All),
    All.

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

%% Whatever a case did: the three are together again for the next one, with the meta of the start.
end_per_testcase(_, Config) ->
    grid:stop_since(?config(running, Config)),
    ok = on_rust(Config, update_meta, [[{lang, rust}, {weight, 0}]]),
    together(Config).

start(Name, Redis, Args) -> rust:start(Name, #{redis => Redis, domain => "mesh", args => Args}).

member(Name, Redis) -> member(Name, Redis, "mesh", "").

member(Name, #{url := Url}, Domain, Version) ->
    Peer = grid:peer(Name, #{env => [{"REDIS_URL", Url}, {"DOMAIN", Domain}, {"VERSION", Version}]}),
    {ok, _} = grid:call(Peer, application, ensure_all_started, [redgrid]),
    Peer.

together(Config) ->
    grid:eventually(?THREE, fun() -> names(on_rust(Config, nodes, [])) end),
    [grid:eventually(?THREE, fun() -> names(grid:call(Peer, redgrid, nodes, [])) end) || Peer <- beams(Config)],
    ok.

beams(Config) -> [?config(foo, Config), ?config(bar, Config)].

names(Nodes) -> lists:sort([Node || {Node, _} <- Nodes]).

%% A function of redgrid on the Rust node, called from an Erlang node.
on_rust(Config, Function, Args) -> on_rust(Config, ?config(rust, Config), Function, Args).

on_rust(Config, #{node := Rust}, Function, Args) ->
    grid:call(?config(foo, Config), rpc, call, [Rust, redgrid, Function, Args]).

%% To whom a Rust node is connected, as it says itself.
connected(Config, Rust) ->
    lists:sort(grid:call(?config(foo, Config), rpc, call, [Rust, erlang, nodes, []])).

%% What an Erlang node, or the Rust node, knows of another one.
meta_of(Peer, Node, Args) ->
    lists:sort(proplists:get_value(Node, grid:call(Peer, redgrid, nodes, Args))).

meta_on_rust(Config, Node, Args) ->
    lists:sort(proplists:get_value(Node, on_rust(Config, nodes, Args))).

%% ---------------------------------------------------------------- nodes

all_members_are_connected_and_listed_by_all(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Seen = fun(Peer) -> lists:sort(grid:call(?config(Peer, Config), erlang, nodes, [])) end,
    grid:eventually(['bar@127.0.0.1', Rust], fun() -> Seen(foo) end),
    grid:eventually(['foo@127.0.0.1', Rust], fun() -> Seen(bar) end),
    ?assertEqual(['bar@127.0.0.1', 'foo@127.0.0.1'], connected(Config, Rust)).

nodes_gives_its_own_node_first_and_the_others_by_name(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Own = [{<<"ip">>, <<"127.0.0.1">>}, {<<"lang">>, <<"rust">>}, {<<"weight">>, <<"0">>}],
    Expected = [{Rust, Own},
                {'bar@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}]},
                {'foo@127.0.0.1', [{<<"ip">>, <<"127.0.0.1">>}]}],
    ?assertEqual(Expected, on_rust(Config, nodes, [])),
    ?assertEqual(Expected, grid:call(?config(foo, Config), erpc, call, [Rust, redgrid, nodes, []])),
    ?assertEqual(Expected, grid:call(?config(foo, Config), gen_server, call, [{redgrid, Rust}, nodes])),
    grid:eventually(Own, fun() -> meta_of(?config(foo, Config), Rust, []) end).

nodes_native_gives_the_types_that_were_given(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Own = [{ip, "127.0.0.1"}, {lang, rust}, {weight, 0}],
    ?assertEqual([{Rust, Own},
                  {'bar@127.0.0.1', [{ip, "127.0.0.1"}]},
                  {'foo@127.0.0.1', [{ip, "127.0.0.1"}]}],
                 on_rust(Config, nodes, [[native]])),
    grid:eventually(Own, fun() -> meta_of(?config(foo, Config), Rust, [[native]]) end).

nodes_of_a_process_asks_that_process(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Expected = on_rust(Config, nodes, []),
    ?assertEqual(Expected, on_rust(Config, nodes, [redgrid])),
    ?assertEqual(Expected, grid:call(?config(foo, Config), redgrid, nodes, [{redgrid, Rust}])),
    Pid = grid:call(?config(foo, Config), rpc, call, [Rust, erlang, whereis, [redgrid]]),
    ?assertEqual(Expected, on_rust(Config, nodes, [Pid])),
    ?assertEqual(Expected, grid:call(?config(foo, Config), redgrid, nodes, [Pid])).

%% ---------------------------------------------------------------- meta

update_meta_by_rpc_replaces_everywhere(Config) ->
    replaces(Config, fun(Rust, Meta) -> rpc:call(Rust, redgrid, update_meta, [Meta]) end).

update_meta_by_erpc_replaces_everywhere(Config) ->
    replaces(Config, fun(Rust, Meta) -> erpc:call(Rust, redgrid, update_meta, [Meta]) end).

update_meta_by_gen_server_call_replaces_everywhere(Config) ->
    replaces(Config, fun(Rust, Meta) -> gen_server:call({redgrid, Rust}, {update_meta, Meta}) end).

update_meta_by_gen_server_cast_replaces_everywhere(Config) ->
    replaces(Config, fun(Rust, Meta) -> gen_server:cast({redgrid, Rust}, {update_meta, Meta}) end).

update_meta_with_a_server_replaces_everywhere(Config) ->
    replaces(Config, fun(Rust, Meta) -> rpc:call(Rust, redgrid, update_meta, [redgrid, Meta]) end),
    replaces(Config, fun(Rust, Meta) -> redgrid:update_meta({redgrid, Rust}, Meta) end).

%% A key that the second meta does not name disappears everywhere.
replaces(Config, Update) ->
    #{node := Rust} = ?config(rust, Config),
    lists:foreach(fun(Meta) ->
        ?assertEqual(ok, grid:on(?config(foo, Config), fun() -> Update(Rust, Meta) end)),
        Native = lists:sort([{ip, "127.0.0.1"} | Meta]),
        Text = lists:sort([{<<"ip">>, <<"127.0.0.1">>} | [{atom_to_binary(K), text(V)} || {K, V} <- Meta]]),
        grid:eventually(Native, fun() -> meta_on_rust(Config, Rust, [[native]]) end),
        [begin
             grid:eventually(Native, fun() -> meta_of(Peer, Rust, [[native]]) end),
             grid:eventually(Text, fun() -> meta_of(Peer, Rust, []) end)
         end || Peer <- beams(Config)]
    end, [[{weight, 10}, {zone, eu}], [{weight, 20}], []]).

text(V) when is_integer(V) -> integer_to_binary(V);
text(V) when is_atom(V) -> atom_to_binary(V).

meta_may_be_a_map_and_have_any_kind_of_text(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Meta = #{an_atom => yes, <<"a_binary">> => <<"bytes">>, "a_string" => "Größe", float => 0.1, integer => -5},
    ok = on_rust(Config, update_meta, [Meta]),
    Text = [{<<"a_binary">>, <<"bytes">>}, {<<"a_string">>, <<"Größe"/utf8>>}, {<<"an_atom">>, <<"yes">>},
            {<<"float">>, <<"0.1">>}, {<<"integer">>, <<"-5">>}, {<<"ip">>, <<"127.0.0.1">>}],
    ?assertEqual(Text, meta_on_rust(Config, Rust, [])),
    grid:eventually(Text, fun() -> meta_of(?config(bar, Config), Rust, []) end),
    %% Values keep their types; a key that can be read as a plain atom is one.
    Native = [{a_binary, <<"bytes">>}, {a_string, "Größe"}, {an_atom, yes}, {float, 0.1}, {integer, -5}, {ip, "127.0.0.1"}],
    ?assertEqual(Native, meta_on_rust(Config, Rust, [[native]])),
    grid:eventually(Native, fun() -> meta_of(?config(bar, Config), Rust, [[native]]) end),
    %% In a list a bare atom stands for true.
    ok = on_rust(Config, update_meta, [[leader]]),
    ?assertEqual([{ip, "127.0.0.1"}, {leader, true}], meta_on_rust(Config, Rust, [[native]])).

meta_of_an_erlang_node_is_seen_with_its_types(Config) ->
    Meta = [{weight, 0}, {zone, "eu"}, {ratio, 1.5}, {<<"tag">>, <<"b">>}, leader],
    ok = grid:call(?config(foo, Config), redgrid, update_meta, [Meta]),
    Native = [{ip, "127.0.0.1"}, {leader, true}, {ratio, 1.5}, {tag, <<"b">>}, {weight, 0}, {zone, "eu"}],
    grid:eventually(Native, fun() -> meta_on_rust(Config, 'foo@127.0.0.1', [[native]]) end),
    ok = grid:call(?config(foo, Config), redgrid, update_meta, [[]]),
    grid:eventually([{<<"ip">>, <<"127.0.0.1">>}], fun() -> meta_on_rust(Config, 'foo@127.0.0.1', []) end).

bad_meta_is_refused_and_changes_nothing(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Before = on_rust(Config, nodes, [[native]]),
    Foo = ?config(foo, Config),
    Bad = [[{ip, "10.0.0.1"}], [{<<"ip">>, x}], [{key, {a, tuple}}], [{key, self()}], [{{a, tuple}, 1}], not_meta, 42,
           [1, 2], [{a, 1} | b], #{key => #{}}, [{key, [-1]}], <<"text">>],
    lists:foreach(fun(Meta) ->
        ?assertMatch({_, {error, {bad_meta, _}}}, {Meta, on_rust(Config, update_meta, [Meta])}),
        ?assertMatch({_, {error, {bad_meta, _}}},
                     {Meta, grid:call(Foo, gen_server, call, [{redgrid, Rust}, {update_meta, Meta}])}),
        ok = grid:call(Foo, gen_server, cast, [{redgrid, Rust}, {update_meta, Meta}])
    end, Bad),
    rust:saying(?config(rust, Config), "WARN.*cast.*meta"),
    ?assertEqual(Before, on_rust(Config, nodes, [[native]])).

%% ---------------------------------------------------------------- suspend, node_info

a_suspended_node_is_left_out_until_it_resumes(Config) ->
    #{node := Rust} = ?config(rust, Config),
    Foo = ?config(foo, Config),
    ?assertEqual(normal, on_rust(Config, get_status, [])),
    ?assertEqual(ok, on_rust(Config, suspend, [])),
    ?assertEqual(suspended, on_rust(Config, get_status, [])),
    [grid:eventually(['bar@127.0.0.1', 'foo@127.0.0.1'], fun() -> names(grid:call(Peer, redgrid, nodes, [])) end)
     || Peer <- beams(Config)],
    ?assertEqual(0, grid:cmd(?config(redis, Config), ["EXISTS", "redgrid:mesh::rust@127.0.0.1"])),
    ?assertEqual(nil, grid:cmd(?config(redis, Config), ["ZSCORE", "redgrid.index:mesh:", "rust@127.0.0.1"])),
    %% It does not bounce back when everybody is asked to register.
    _ = grid:cmd(?config(redis, Config), ["PUBLISH", "redgrid:mesh:", "ping"]),
    ok = grid:call(Foo, redgrid, update_meta, [[{after_the_ping, 1}]]),
    grid:until(fun() -> length(meta_of(?config(bar, Config), 'foo@127.0.0.1', [])) =:= 2 end, 15000),
    ?assertEqual(0, grid:cmd(?config(redis, Config), ["EXISTS", "redgrid:mesh::rust@127.0.0.1"])),
    %% The connections stay, and node_info still finds it.
    ?assert(lists:member(Rust, grid:call(Foo, erlang, nodes, []))),
    grid:until(fun() ->
        case grid:call(Foo, redgrid, node_info, [Rust]) of
            {ok, #{status := <<"suspended">>, connected := true}} -> true;
            Other -> Other
        end
    end, 15000),
    ?assertEqual(ok, on_rust(Config, resume, [])),
    ?assertEqual(normal, on_rust(Config, get_status, [])),
    together(Config),
    ok = grid:call(Foo, redgrid, update_meta, [[]]).

node_info_tells_all_that_is_known(Config) ->
    #{node := Rust, port := Port} = ?config(rust, Config),
    {ok, Foo} = on_rust(Config, node_info, ['foo@127.0.0.1']),
    ?assertMatch(#{address := _, port := _, impl := _, hidden := false, status := _, connected := true, meta := _}, Foo),
    {ok, Own} = on_rust(Config, node_info, [Rust]),
    ?assertMatch(#{port := Port, hidden := false}, Own),
    ?assertEqual({error, not_found}, on_rust(Config, node_info, ['nobody@127.0.0.1'])),
    {ok, Seen} = grid:call(?config(foo, Config), redgrid, node_info, [Rust]),
    ?assertMatch(#{port := Port, address := <<"127.0.0.1">>, impl := <<"redgrid", _/binary>>, status := <<"up">>}, Seen),
    %% Asked for what another node's process says, each asks it.
    Process = {redgrid, 'foo@127.0.0.1'},
    Pid = grid:call(?config(foo, Config), erlang, whereis, [redgrid]),
    ?assertEqual(lists:sort(grid:call(?config(foo, Config), redgrid, nodes, [])), lists:sort(on_rust(Config, nodes, [Process]))),
    ?assertEqual(on_rust(Config, nodes, [Process]), on_rust(Config, nodes, [Pid])),
    ?assertMatch({badrpc, {'EXIT', {noproc, _}}}, on_rust(Config, nodes, [{nobody, 'foo@127.0.0.1'}])),
    %% Rust and Erlang say the same of one node, in the same types.
    Same = [node, address, port, proto, impl, creation, hidden, status, connected, meta],
    ?assertEqual(maps:with(Same, Seen), maps:with(Same, Own)).

%% ---------------------------------------------------------------- who is a member

two_rust_nodes_find_each_other(Config) ->
    #{node := Second} = Rust = start(second, ?config(redis, Config), ["--meta", "n=2"]),
    Four = lists:sort([Second | ?THREE]),
    grid:eventually(Four, fun() -> names(on_rust(Config, nodes, [])) end),
    grid:eventually(Four, fun() -> names(on_rust(Config, Rust, nodes, [])) end),
    grid:eventually(?THREE, fun() -> connected(Config, Second) end),
    grid:eventually([{ip, "127.0.0.1"}, {n, 2}], fun() -> meta_on_rust(Config, Second, [[native]]) end),
    {0, _} = rust:stop(Rust).

a_hidden_rust_node_is_a_hidden_member(Config) ->
    #{node := Ghost} = start(ghost, ?config(redis, Config), ["--hidden"]),
    grid:until(fun() -> lists:member(Ghost, grid:call(?config(foo, Config), erlang, nodes, [hidden])) end, 15000),
    ?assertNot(lists:member(Ghost, grid:call(?config(foo, Config), erlang, nodes, []))),
    grid:until(fun() ->
        case grid:call(?config(foo, Config), redgrid, node_info, [Ghost]) of
            {ok, #{hidden := true, connected := true}} -> true;
            Other -> Other
        end
    end, 15000).

another_domain_or_version_is_never_listed(Config) ->
    Redis = ?config(redis, Config),
    Scopes = [{"", ""}, {"mesh", "2"}, {"other", ""}, {"mes", ""}, {"mesh:", ""}],
    Rusts = [rust:start(list_to_atom("r" ++ integer_to_list(N)), #{redis => Redis, domain => D, version => V})
             || {N, {D, V}} <- lists:enumerate(Scopes)],
    Member = member(elsewhere, Redis, "mesh", "2"),
    #{node := R2} = Sees = lists:nth(2, Rusts),
    grid:eventually(lists:sort([R2, 'elsewhere@127.0.0.1']), fun() -> names(on_rust(Config, Sees, nodes, [])) end),
    grid:eventually(lists:sort([R2, 'elsewhere@127.0.0.1']), fun() -> names(grid:call(Member, redgrid, nodes, [])) end),
    [?assertEqual([Node], names(on_rust(Config, Rust, nodes, []))) || #{node := Node} = Rust <- Rusts, Node =/= R2],
    together(Config).

all_versions_are_members_where_that_is_asked_for(Config) ->
    Redis = ?config(redis, Config),
    Other = rust:start(other, #{redis => Redis, domain => "mesh", version => "2"}),
    Any = rust:start(any, #{redis => Redis, domain => "mesh", args => ["--any-version"]}),
    Expected = lists:sort([maps:get(node, Other), maps:get(node, Any) | ?THREE]),
    grid:eventually([], fun() -> Expected -- names(on_rust(Config, Any, nodes, [])) end),
    %% Those who did not ask for it do not list what is of another version.
    grid:eventually(lists:sort([maps:get(node, Any) | ?THREE]), fun() -> names(on_rust(Config, nodes, [])) end).

a_node_with_another_cookie_is_not_connected(Config) ->
    #{node := Thief} = Rust = rust:start(thief, #{redis => ?config(redis, Config), domain => "mesh",
                                                  env => [{"REDGRID_COOKIE", "not_the_cookie_of_this_run"}]}),
    Line = rust:saying(Rust, "(foo|bar|rust)@127.0.0.1.*cookie"),
    ?assertEqual(nomatch, binary:match(Line, <<"not_the_cookie_of_this_run">>)),
    [?assertNot(lists:member(Thief, grid:call(Peer, erlang, nodes, [connected]))) || Peer <- beams(Config)],
    %% It may be listed, since whoever can write to Redis is a member; the cookie decides who is connected.
    ?assertEqual([], names(on_rust(Config, nodes, [])) -- [Thief | ?THREE]),
    ?assertNot(lists:member(Thief, connected(Config, 'rust@127.0.0.1'))).

%% ---------------------------------------------------------------- to leave and come back

a_node_that_leaves_is_out_at_once(Config) ->
    Leaver = #{node := Node} = start(leaver, ?config(redis, Config), []),
    seen_by_all(Config, Node, true),
    {Code, Ms} = rust:stop(Leaver),
    grid:measured("left after", Ms),
    ?assertEqual(0, Code),
    ?assert(Ms < 15000),
    seen_by_all(Config, Node, false).

a_node_that_is_killed_is_out_at_once(Config) ->
    Victim = #{node := Node} = start(victim, ?config(redis, Config), []),
    seen_by_all(Config, Node, true),
    rust:kill(Victim),
    Began = erlang:monotonic_time(millisecond),
    seen_by_all(Config, Node, false),
    grid:measured("out after", erlang:monotonic_time(millisecond) - Began),
    ?assertEqual(1, grid:cmd(?config(redis, Config), ["EXISTS", "redgrid:mesh::victim@127.0.0.1"])).

a_node_that_is_killed_and_started_at_once_is_in_again(Config) ->
    Start = fun() -> start(phoenix, ?config(redis, Config), []) end,
    First = #{node := Node} = Start(),
    seen_by_all(Config, Node, true),
    rust:kill(First),
    Began = erlang:monotonic_time(millisecond),
    Second = Start(),
    seen_by_all(Config, Node, true),
    grid:measured("in the mesh again after", erlang:monotonic_time(millisecond) - Began),
    grid:eventually([], fun() -> [Node | ?THREE] -- names(on_rust(Config, Second, nodes, [])) end).

an_erlang_node_that_is_killed_is_out_of_the_view_of_rust_at_once(Config) ->
    Mortal = #{node := Node} = member(mortal, ?config(redis, Config)),
    seen_by_all(Config, Node, true),
    grid:stop(Mortal),
    seen_by_all(Config, Node, false).

%% Listed by the three and connected to them, or neither.
seen_by_all(Config, Node, Expected) ->
    grid:eventually(Expected, fun() -> lists:member(Node, names(on_rust(Config, nodes, []))) end),
    grid:eventually(Expected, fun() -> lists:member(Node, connected(Config, 'rust@127.0.0.1')) end),
    [begin
         grid:eventually(Expected, fun() -> lists:member(Node, names(grid:call(Peer, redgrid, nodes, []))) end),
         grid:eventually(Expected, fun() -> lists:member(Node, grid:call(Peer, erlang, nodes, [])) end)
     end || Peer <- beams(Config)],
    ok.

%% Its epmd is another one, so only the mesh can tell that the name is taken.
a_name_that_is_taken_elsewhere_is_not_taken_over(Config) ->
    #{url := Url} = ?config(redis, Config),
    EpmdPort = compliant_epmd(),
    {1, Text} = rust:fails(["node", "--name", "rust@127.0.0.1", "--redis", Url, "--domain", "mesh",
                            "--epmd-port", integer_to_list(EpmdPort)]),
    ?assertMatch({match, _}, re:run(Text, "rust@127.0.0.1.*--name")),
    together(Config),
    ?assertEqual(<<"rust">>, grid:cmd(?config(redis, Config), ["HGET", "redgrid:mesh::rust@127.0.0.1", "lang"])).

%% An epmd that registers everybody and knows nobody; it ends with the case.
compliant_epmd() ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {packet, 2}, {ip, {127, 0, 0, 1}}]),
    spawn_link(fun() -> accept(Listen) end),
    {ok, Port} = inet:port(Listen),
    Port.

accept(Listen) ->
    {ok, Socket} = gen_tcp:accept(Listen),
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, <<120, _/binary>>} ->
            ok = inet:setopts(Socket, [{packet, raw}]),
            gen_tcp:send(Socket, <<118, 0, 42:32>>);
        _ ->
            gen_tcp:close(Socket)
    end,
    accept(Listen).
