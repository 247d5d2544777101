%% A Rust node among Erlang nodes: seen, connected and disconnected as OTP does it.
-module(node_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([a_rust_node_is_in_nodes_once_it_is_connected/1,
         a_hidden_rust_node_is_in_nodes_hidden_only/1,
         ping_gives_pong/1,
         ping_of_a_stopped_node_gives_pang/1,
         it_says_its_own_name/1,
         it_lists_its_peers/1,
         it_tells_release_and_version/1,
         it_knows_no_other_system_info/1,
         epmd_knows_it_while_it_runs_and_not_afterwards/1,
         a_node_that_stops_is_down_at_once/1,
         a_node_that_is_killed_is_down_at_once/1,
         it_has_another_creation_in_its_next_life/1,
         it_can_be_connected_again_after_a_disconnect/1,
         a_beam_with_another_cookie_is_refused_with_a_clear_line/1,
         simultaneous_connects_end_with_one_connection_when_our_name_is_greater/1,
         simultaneous_connects_end_with_one_connection_when_our_name_is_less/1,
         ticks_keep_an_idle_connection_and_silence_ends_one/1,
         a_stopped_process_is_down_within_the_tick_time/1,
         a_node_without_a_name_gets_one_from_us/1,
         a_node_without_a_name_gets_a_short_one_from_a_node_with_a_short_one/1,
         two_nodes_without_names_get_different_ones/1,
         a_node_that_lost_its_name_gets_another/1,
         a_name_that_is_taken_is_refused/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    [{rust, rust:start(rust)}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

both(Config) -> {?config(rust, Config), ?config(beam, Config)}.

%% ---------------------------------------------------------------- to be seen

a_rust_node_is_in_nodes_once_it_is_connected(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    ?assert(grid:call(Beam, net_kernel, connect_node, [Rust])),
    ?assertEqual([Rust], grid:call(Beam, erlang, nodes, [])),
    ?assertEqual([Rust], grid:call(Beam, erlang, nodes, [visible])),
    ?assertEqual([], grid:call(Beam, erlang, nodes, [hidden])).

a_hidden_rust_node_is_in_nodes_hidden_only(_) ->
    #{node := Ghost} = rust:start(ghost, #{args => ["--hidden"]}),
    Beam = grid:peer(watcher),
    ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Ghost])),
    ?assertEqual([], grid:call(Beam, erlang, nodes, [])),
    ?assertEqual([Ghost], grid:call(Beam, erlang, nodes, [hidden])),
    ?assertEqual([], grid:call(Beam, rpc, call, [Ghost, erlang, nodes, []])),
    ?assertEqual([maps:get(node, Beam)], grid:call(Beam, rpc, call, [Ghost, erlang, nodes, [hidden]])).

ping_gives_pong(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Rust])).

ping_of_a_stopped_node_gives_pang(Config) ->
    #{node := Node} = Gone = rust:start(gone),
    ?assertEqual(pong, grid:call(?config(beam, Config), net_adm, ping, [Node])),
    rust:stop(Gone),
    ?assertEqual(pang, grid:call(?config(beam, Config), net_adm, ping, [Node])).

it_says_its_own_name(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    ?assertEqual(Rust, grid:call(Beam, rpc, call, [Rust, erlang, node, []])).

it_lists_its_peers(Config) ->
    {#{node := Rust}, #{node := BeamNode} = Beam} = both(Config),
    Ghost = grid:peer(ghost, #{hidden => true}),
    ?assertEqual(pong, grid:call(Ghost, net_adm, ping, [Rust])),
    Nodes = fun(Args) -> lists:sort(grid:call(Beam, rpc, call, [Rust, erlang, nodes, Args])) end,
    ?assertEqual([BeamNode], Nodes([])),
    ?assertEqual([BeamNode], Nodes([visible])),
    ?assertEqual(['ghost@127.0.0.1'], Nodes([hidden])),
    ?assertEqual([BeamNode, 'ghost@127.0.0.1'], Nodes([connected])),
    ?assertEqual([Rust], Nodes([this])),
    ?assertEqual(lists:sort([BeamNode, Rust]), Nodes([[this, visible]])),
    ?assertMatch({badrpc, {'EXIT', {badarg, _}}}, grid:call(Beam, rpc, call, [Rust, erlang, nodes, [nonsense]])).

it_tells_release_and_version(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    Release = grid:call(Beam, rpc, call, [Rust, erlang, system_info, [otp_release]]),
    ?assert(list_to_integer(Release) >= 25),
    Version = grid:call(Beam, rpc, call, [Rust, erlang, system_info, [system_version]]),
    ?assertMatch({match, _}, re:run(Version, "redgrid")),
    ?assert(io_lib:printable_list(Version)).

it_knows_no_other_system_info(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    ?assertMatch({badrpc, {'EXIT', {badarg, _}}},
                 grid:call(Beam, rpc, call, [Rust, erlang, system_info, [no_such_item]])).

epmd_knows_it_while_it_runs_and_not_afterwards(_) ->
    #{port := Port} = Rust = rust:start(listed),
    {ok, During} = net_adm:names({127, 0, 0, 1}),
    ?assertEqual({"listed", Port}, lists:keyfind("listed", 1, During)),
    ?assertMatch({0, _}, rust:stop(Rust)),
    {ok, After} = net_adm:names({127, 0, 0, 1}),
    ?assertEqual(false, lists:keyfind("listed", 1, After)).

%% ---------------------------------------------------------------- to come and go

a_node_that_stops_is_down_at_once(Config) ->
    #{node := Node} = Rust = rust:start(leaver),
    Watch = watch(?config(beam, Config), Node),
    {Code, Ms} = rust:stop(Rust),
    ?assertEqual(0, Code),
    grid:measured("stopped after", Ms),
    ?assert(Ms < 15000),
    ?assertEqual({nodedown, Node}, Watch()).

a_node_that_is_killed_is_down_at_once(Config) ->
    #{node := Node} = Rust = rust:start(victim),
    Watch = watch(?config(beam, Config), Node),
    rust:kill(Rust),
    ?assertEqual({nodedown, Node}, Watch()).

%% Connects and then gives what to wait with for the end of the connection.
watch(Beam, Node) ->
    Watcher = grid:on(Beam, fun() ->
        true = net_kernel:connect_node(Node),
        Pid = spawn(fun() ->
                            true = monitor_node(Node, true),
                            receive Down -> receive {tell, To} -> To ! Down end end
                    end),
        %% It watches when it waits.
        grid:until(fun() -> process_info(Pid, status) =:= {status, waiting} end, 5000),
        Pid
    end),
    fun() ->
            grid:on(Beam, fun() ->
                                  Watcher ! {tell, self()},
                                  receive Down -> Down after 5000 -> still_up end
                          end)
    end.

it_has_another_creation_in_its_next_life(Config) ->
    Beam = ?config(beam, Config),
    Creation = fun() ->
                       #{node := Node} = Rust = rust:start(phoenix),
                       Value = grid:call(Beam, rpc, call, [Node, erlang, system_info, [creation]]),
                       rust:kill(Rust),
                       Value
               end,
    First = Creation(),
    ?assert(is_integer(First)),
    ?assertNotEqual(First, Creation()).

it_can_be_connected_again_after_a_disconnect(Config) ->
    {#{node := Rust}, Beam} = both(Config),
    lists:foreach(fun(_) ->
                          ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Rust])),
                          ?assertEqual(true, grid:call(Beam, erlang, disconnect_node, [Rust])),
                          ?assertNot(lists:member(Rust, grid:call(Beam, erlang, nodes, [])))
                  end, lists:seq(1, 10)),
    ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Rust])).

a_beam_with_another_cookie_is_refused_with_a_clear_line(Config) ->
    {#{node := Rust} = Node, Beam} = both(Config),
    Stranger = grid:peer(stranger, #{cookie => not_the_cookie}),
    ?assertEqual(pang, grid:call(Stranger, net_adm, ping, [Rust])),
    ?assertEqual([], grid:call(Stranger, erlang, nodes, [connected])),
    Line = rust:saying(Node, "WARN.*cookie.*--cookie.*stranger@127.0.0.1"),
    ?assertEqual(nomatch, binary:match(Line, <<"not_the_cookie">>)),
    ?assertEqual(nomatch, binary:match(Line, atom_to_binary(erlang:get_cookie()))),
    ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Rust])).

a_name_that_is_taken_is_refused(_) ->
    _ = rust:start(taken),
    {1, Text} = rust:fails(["node", "--name", "taken@127.0.0.1", "--redis", "redis://127.0.0.1:1/"]),
    ?assertMatch({match, _}, re:run(Text, "taken.*(already|another).*--name", [dotall])).

%% ---------------------------------------------------------------- simultaneous connects

simultaneous_connects_end_with_one_connection_when_our_name_is_greater(_) -> simultaneous(zrust, abeam).

simultaneous_connects_end_with_one_connection_when_our_name_is_less(_) -> simultaneous(arust, zbeam).

%% Redis is what makes the Rust node dial: each time it hears the Erlang node's key.
simultaneous(RustName, BeamName) ->
    Redis = grid:redis(),
    #{node := Rust} = rust:start(RustName, #{redis => Redis, domain => "d"}),
    #{node := Node} = Beam = grid:peer(BeamName),
    Key = ["redgrid:d::", atom_to_list(Node)],
    Announce = fun() ->
                       _ = grid:cmd(Redis, ["HSET", Key, "ip", "127.0.0.1"]),
                       _ = grid:cmd(Redis, ["EXPIRE", Key, 60]),
                       ?assert(grid:cmd(Redis, ["PUBLISH", "redgrid:d:", Key]) >= 1)
               end,
    grid:until(fun() -> grid:cmd(Redis, ["PUBSUB", "NUMSUB", "redgrid:d:"]) =:= [<<"redgrid:d:">>, 1] end, 15000),
    Sockets = fun() -> grid:on(Beam, fun() -> 
                      length([P || P <- erlang:ports(), erlang:port_info(P, name) =:= {name, "tcp_inet"}])
                   end) end,
    None = Sockets(),
    lists:foreach(fun(Round) ->
                          Test = self(),
                          Dialler = spawn_link(fun() -> Test ! {self(), grid:call(Beam, net_adm, ping, [Rust])} end),
                          Announce(),
                          receive {Dialler, Pong} -> ?assertEqual({Round, pong}, {Round, Pong}) end,
                          grid:eventually([Node], fun() -> grid:call(Beam, rpc, call, [Rust, erlang, nodes, []]) end),
                          grid:eventually(None + 1, Sockets),
                          ?assertEqual([Rust], grid:call(Beam, erlang, nodes, [])),
                          %% What it heard late may make it dial once more.
                          grid:eventually(None, fun() -> grid:call(Beam, erlang, disconnect_node, [Rust]), Sockets() end)
                  end, lists:seq(1, 20)).

%% ---------------------------------------------------------------- dynamic names

-define(NAMELESS, ["-name", "undefined@127.0.0.1"]).

a_node_without_a_name_gets_one_from_us(_) ->
    #{node := Rust} = rust:start(godparent, #{args => ["--echo"]}),
    gets_a_name(Rust, grid:nameless(?NAMELESS), "^[A-Z0-9]+@127\\.0\\.0\\.1$").

a_node_without_a_name_gets_a_short_one_from_a_node_with_a_short_one(_) ->
    #{node := Rust} = rust:start(shorty, #{short => true, args => ["--echo"]}),
    Peer = grid:nameless(["-sname", "undefined@localhost"]),
    %% A root with another OTP has no /etc/hosts.
    ok = grid:call(Peer, inet_db, add_host, [{127, 0, 0, 1}, ["localhost"]]),
    ok = grid:call(Peer, inet_db, set_lookup, [[file, native]]),
    gets_a_name(Rust, Peer, "^[A-Z0-9]+@localhost$").

%% Such a node is hidden, and does all that others do.
gets_a_name(Rust, Peer, Regex) ->
    ?assertEqual(nonode@nohost, grid:call(Peer, erlang, node, [])),
    ?assertEqual(true, grid:call(Peer, net_kernel, connect_node, [Rust])),
    Name = grid:call(Peer, erlang, node, []),
    ?assertMatch({match, _}, re:run(atom_to_list(Name), Regex)),
    ?assertEqual([], grid:call(Peer, erlang, nodes, [])),
    ?assertEqual([Rust], grid:call(Peer, erlang, nodes, [hidden])),
    ?assertEqual([], grid:call(Peer, rpc, call, [Rust, erlang, nodes, []])),
    ?assertEqual([Name], grid:call(Peer, rpc, call, [Rust, erlang, nodes, [hidden]])),
    ?assertEqual(pong, grid:call(Peer, net_adm, ping, [Rust])),
    ?assertEqual(Name, grid:on(Peer, fun() ->
        %% Its pids and references have the new name, and it is found by it.
        {Self, Ref, Alias} = Term = {self(), make_ref(), alias()},
        Term = gen_server:call({echo, Rust}, Term),
        {echo, Rust} ! {Self, Ref, binary:copy(<<"x">>, 300000)},
        receive {Ref, <<"xx", _/binary>>} -> ok end,
        Answering = spawn(fun() -> receive {'$gen_call', From, _} -> gen_server:reply(From, {i_am, node()}) end end),
        {i_am, Own} = rpc:call(Rust, redgrid, nodes, [Answering]),
        true = unalias(Alias),
        Own
    end)).

two_nodes_without_names_get_different_ones(_) ->
    #{node := Rust} = rust:start(godparent),
    [One, Two] = [begin
                      Peer = grid:nameless(?NAMELESS),
                      true = grid:call(Peer, net_kernel, connect_node, [Rust]),
                      grid:call(Peer, erlang, node, [])
                  end || _ <- "12"],
    ?assertNotEqual(One, Two),
    Beam = grid:peer(witness),
    ?assertEqual(lists:sort([One, Two]), lists:sort(grid:call(Beam, rpc, call, [Rust, erlang, nodes, [hidden]]))).

a_node_that_lost_its_name_gets_another(_) ->
    #{node := Rust} = rust:start(godparent),
    Peer = grid:nameless(?NAMELESS),
    Name = fun() -> grid:call(Peer, erlang, node, []) end,
    ?assertEqual(true, grid:call(Peer, net_kernel, connect_node, [Rust])),
    First = Name(),
    ?assertEqual(true, grid:call(Peer, erlang, disconnect_node, [Rust])),
    grid:eventually(nonode@nohost, Name),
    grid:until(fun() -> grid:call(Peer, net_kernel, connect_node, [Rust]) end, 10000),
    ?assertNotEqual(nonode@nohost, Name()),
    ?assertNotEqual(First, Name()),
    ?assertEqual([Name()], grid:call(Peer, rpc, call, [Rust, erlang, nodes, [hidden]])).

%% ---------------------------------------------------------------- ticks

%% Ten seconds are two and a half tick times: whoever sends no ticks, or misses the other's, is out by then.
ticks_keep_an_idle_connection_and_silence_ends_one(_) ->
    #{node := Rust, port := Port} = Ticker = rust:start(ticker, #{args => ["--net-ticktime", "4"]}),
    #{node := Node} = Beam = grid:peer(idler, #{args => ["-kernel", "net_ticktime", "4"]}),
    Watch = watch(Beam, Rust),
    {ok, Silent} = wire:connect(Port, 'silent@127.0.0.1', erlang:get_cookie()),
    ?assert(wire:closed(Silent, 20000)),
    rust:saying(Ticker, "silent@127.0.0.1.*tick time"),
    timer:sleep(6000),
    ?assertEqual([Rust], grid:call(Beam, erlang, nodes, [])),
    ?assertEqual([Node], grid:call(Beam, rpc, call, [Rust, erlang, nodes, []])),
    ?assertEqual(0, rust:said(Ticker, "idler@127.0.0.1.*disconnected|disconnected.*idler@127.0.0.1")),
    rust:stop(Ticker),
    ?assertEqual({nodedown, Rust}, Watch()).

a_stopped_process_is_down_within_the_tick_time(_) ->
    #{node := Rust, handle := Handle} = rust:start(sleeper, #{args => ["--net-ticktime", "4"]}),
    Beam = grid:peer(waker, #{args => ["-kernel", "net_ticktime", "4"]}),
    ?assertEqual(pong, grid:call(Beam, net_adm, ping, [Rust])),
    launch:signal(Handle, stop),
    Began = erlang:monotonic_time(millisecond),
    grid:until(fun() -> grid:call(Beam, erlang, nodes, []) =:= [] end, 20000),
    grid:measured("down after", erlang:monotonic_time(millisecond) - Began),
    launch:signal(Handle, cont),
    %% Awake again, it takes the old connection for lost and lets itself be connected anew.
    grid:until(fun() -> grid:call(Beam, net_adm, ping, [Rust]) =:= pong end, 20000).
