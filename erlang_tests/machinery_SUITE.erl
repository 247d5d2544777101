%% The ground that the other suites stand on: programs of the host can be started, watched and
%% ended from here, a private Redis answers, Erlang peers see each other. No redgrid takes part,
%% so when this suite fails the fault is in the machinery.
-module(machinery_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([a_private_redis_answers/1,
         a_private_redis_asks_for_its_password/1,
         two_redis_servers_do_not_share_keys/1,
         lines_arrive_while_the_program_runs/1,
         a_line_is_given_once/1,
         a_program_that_is_killed_says_by_what/1,
         a_stopped_program_is_no_longer_reachable/1,
         a_program_ends_with_its_handle/1,
         a_program_that_cannot_start_says_why/1,
         a_file_for_programs_is_readable_to_them/1,
         two_peers_see_each_other_and_nobody_else/1,
         a_peer_with_another_cookie_stays_out/1,
         this_run_has_an_epmd_of_its_own/1,
         what_is_published_comes_to_the_subscriber/1,
         what_was_started_since_is_stopped/1,
         a_fun_runs_on_a_peer_and_fails_here/1,
         waiting_in_vain_shows_the_last_value/1]).


suite() -> [{timetrap, {minutes, 1}}].

all() ->
    [F || {F, 1} <- ?MODULE:module_info(exports), F =/= module_info].

a_private_redis_answers(_) ->
    Redis = grid:redis(),
    ?assertEqual(<<"PONG">>, grid:cmd(Redis, ["PING"])),
    ?assertEqual(ok, grid:cmd(Redis, ["SET", "key", "two\r\nlines"])),
    ?assertEqual(<<"two\r\nlines">>, grid:cmd(Redis, ["GET", "key"])),
    ?assertEqual(nil, grid:cmd(Redis, ["GET", "no such key"])),
    ?assertEqual(2, grid:cmd(Redis, ["RPUSH", "list", "a", 7])),
    ?assertEqual([<<"a">>, <<"7">>], grid:cmd(Redis, ["LRANGE", "list", 0, -1])),
    ?assertMatch({error, <<"ERR unknown command", _/binary>>}, grid:cmd(Redis, ["NOSUCH"])),
    grid:stop(Redis).

a_private_redis_asks_for_its_password(_) ->
    Redis = grid:redis(#{password => "sesame"}),
    ?assertEqual(<<"PONG">>, grid:cmd(Redis, ["PING"])),
    ?assertMatch({error, <<"NOAUTH", _/binary>>}, grid:cmd(Redis#{password := undefined}, ["PING"])),
    grid:stop(Redis).

two_redis_servers_do_not_share_keys(_) ->
    One = grid:redis(),
    Two = grid:redis(),
    ok = grid:cmd(One, ["SET", "key", "one"]),
    ?assertEqual(nil, grid:cmd(Two, ["GET", "key"])),
    grid:stop(One),
    grid:stop(Two).

lines_arrive_while_the_program_runs(_) ->
    #{handle := Handle} = Redis = grid:redis(),
    ?assert(is_integer(launch:os_pid(Handle))),
    ?assert(lists:any(fun(Line) -> binary:match(Line, <<"Ready to accept">>) =/= nomatch end, launch:lines(Handle))),
    ?assertMatch({error, {timeout, [_ | _]}}, launch:wait_exit(Handle, 0)),
    grid:stop(Redis).

a_line_is_given_once(_) ->
    %% grid:redis/0 has waited for this line, so it is behind us.
    #{handle := Handle} = Redis = grid:redis(),
    ?assertMatch({error, {timeout, _}}, launch:wait_line(Handle, "Ready to accept", 50)),
    launch:signal(Handle, term),
    ?assertMatch({ok, _}, launch:wait_line(Handle, "scheduling shutdown", 5000)),
    ?assertMatch({error, {exited, _}}, launch:wait_line(Handle, "Ready to accept", 5000)),
    grid:stop(Redis).

a_program_that_is_killed_says_by_what(_) ->
    #{handle := One} = grid:redis(),
    launch:signal(One, kill),
    ?assertEqual({ok, 128 + 9}, launch:wait_exit(One, 5000)),
    #{handle := Two} = grid:redis(),
    launch:signal(Two, term),
    ?assertEqual({ok, 0}, launch:wait_exit(Two, 5000)),
    launch:stop(One),
    launch:stop(Two).

a_stopped_program_is_no_longer_reachable(_) ->
    #{port := Port} = Redis = grid:redis(),
    grid:stop(Redis),
    ?assertEqual({error, econnrefused}, gen_tcp:connect("127.0.0.1", Port, [])),
    %% A second stop finds nothing to do.
    grid:stop(Redis).

a_program_ends_with_its_handle(_) ->
    #{port := Port, handle := Handle} = grid:redis(),
    exit(Handle, kill),
    grid:until(fun() -> gen_tcp:connect("127.0.0.1", Port, []) =:= {error, econnrefused} end, 5000).

a_program_that_cannot_start_says_why(_) ->
    {ok, Handle} = launch:start(redis, ["--no-such-option", "1"]),
    {ok, Code} = launch:wait_exit(Handle, 5000),
    ?assertNotEqual(0, Code),
    ?assertMatch({error, {exited, [_ | _]}}, launch:wait_line(Handle, "Ready to accept", 5000)),
    launch:stop(Handle).

a_file_for_programs_is_readable_to_them(_) ->
    Port = grid:free_port(),
    {ok, Path} = launch:file("redis.conf", 8#400, ["port ", integer_to_list(Port), "\nsave \"\"\nbind 127.0.0.1\n"]),
    {ok, Handle} = launch:start(redis, [Path]),
    ?assertMatch({ok, _}, launch:wait_line(Handle, "Ready to accept", 10000)),
    ?assertEqual(<<"PONG">>, grid:cmd(#{port => Port, password => undefined}, ["PING"])),
    launch:stop(Handle).

two_peers_see_each_other_and_nobody_else(_) ->
    Foo = #{node := FooNode} = grid:peer(foo),
    Bar = #{node := BarNode} = grid:peer(bar),
    ?assertEqual('foo@127.0.0.1', FooNode),
    ?assertEqual([], grid:call(Foo, erlang, nodes, [])),
    ?assertEqual(pong, grid:call(Foo, net_adm, ping, [BarNode])),
    grid:until(fun() -> grid:call(Bar, erlang, nodes, []) =:= [FooNode] end, 5000),
    ?assertEqual([BarNode], grid:call(Foo, erlang, nodes, [])),
    grid:stop(Bar),
    grid:until(fun() -> grid:call(Foo, erlang, nodes, []) =:= [] end, 5000),
    grid:stop(Foo).

a_peer_with_another_cookie_stays_out(_) ->
    Foo = grid:peer(foo),
    Bar = #{node := BarNode} = grid:peer(bar, #{cookie => 'another one'}),
    ?assertEqual(pang, grid:call(Foo, net_adm, ping, [BarNode])),
    ?assertEqual([], grid:call(Bar, erlang, nodes, [])),
    grid:stop(Bar),
    grid:stop(Foo).

this_run_has_an_epmd_of_its_own(_) ->
    Port = list_to_integer(os:getenv("ERL_EPMD_PORT")),
    ?assertNotEqual(4369, Port),
    {ok, Names} = net_adm:names({127, 0, 0, 1}),
    ?assertEqual(["ct"], [Name || {Name, _} <- Names]).

what_is_published_comes_to_the_subscriber(_) ->
    Redis = grid:redis(),
    ok = grid:subscribe(Redis, ["one", "two"]),
    ?assertEqual(1, grid:cmd(Redis, ["PUBLISH", "two", <<0, 255, "\r\n">>])),
    receive Message -> ?assertEqual({published, <<"two">>, <<0, 255, "\r\n">>}, Message)
    after 5000 -> error(nothing_came)
    end,
    grid:stop(Redis).

what_was_started_since_is_stopped(_) ->
    Before = #{handle := Handle} = grid:redis(),
    Running = grid:running(),
    ?assert(lists:member(Handle, Running)),
    #{port := Port} = grid:redis(),
    #{peer := Peer} = grid:peer(foo),
    ok = grid:stop_since(Running),
    ?assertEqual(<<"PONG">>, grid:cmd(Before, ["PING"])),
    ?assertEqual({error, econnrefused}, gen_tcp:connect("127.0.0.1", Port, [])),
    ?assertNot(is_process_alive(Peer)),
    grid:stop(Before).

a_fun_runs_on_a_peer_and_fails_here(_) ->
    Foo = #{node := Node} = grid:peer(foo),
    ?assertEqual(Node, grid:on(Foo, fun() -> self() ! node(), receive N -> N end end)),
    ?assertError(oops, grid:on(Foo, fun() -> error(oops) end)),
    grid:stop(Foo).

waiting_in_vain_shows_the_last_value(_) ->
    ?assertError({not_true_within_ms, 30, {almost, there}}, grid:until(fun() -> {almost, there} end, 30)),
    ?assertError({not_true_within_ms, 30, {error, oops}}, grid:until(fun() -> error(oops) end, 30)).
