%% What a Rust node keeps in Redis, and what others may do there: both dialects of the Erlang redgrid of 2011, rubbish,
%% and a Redis that is not there.
-module(registration_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([the_classic_hash_has_ip_and_meta_and_nothing_else/1,
         the_classic_key_ends_within_a_minute_unless_it_is_renewed/1,
         the_info_hash_tells_the_rest/1,
         the_index_has_when_the_registration_ends/1,
         no_other_key_matches_the_classic_pattern/1,
         a_ping_is_answered_with_the_key/1,
         a_new_meta_is_announced_at_once/1,
         a_node_that_leaves_deletes_its_keys_and_ends_with_0/1,
         a_node_that_leaves_while_redis_does_not_answer_ends_all_the_same/1,
         a_talking_classic_node_and_a_rust_node_find_each_other/1,
         a_polling_classic_node_and_a_rust_node_find_each_other/1,
         a_hash_without_ip_is_told_once/1,
         a_key_that_is_no_hash_is_told_once/1,
         a_node_name_that_is_none_is_told_once/1,
         rubbish_on_the_channels_is_told_once/1,
         a_registration_of_a_node_that_is_not_there_is_listed_until_it_ends/1,
         a_node_that_starts_without_redis_registers_when_it_is_there/1,
         a_node_keeps_its_connections_and_view_while_redis_is_away/1,
         a_redis_that_lost_everything_is_filled_again/1,
         a_redis_that_asks_for_a_password_is_told_clearly/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

-define(KEY, "redgrid:d:v:rust@127.0.0.1").

init_per_suite(Config) ->
    [{beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

%% Each has a Redis and a mesh of its own.
init_per_testcase(_, Config) ->
    Running = grid:running(),
    Redis = grid:redis(),
    [{running, Running}, {redis, Redis} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

start(Config) -> start(Config, rust).

start(Config, Name) ->
    Rust = rust:start(Name, #{redis => ?config(redis, Config), domain => "d", version => "v",
                              args => ["--meta", "weight=0", "--meta", "lang:=rust"]}),
    grid:until(fun() -> cmd(Config, ["EXISTS", ["redgrid:d:v:", atom_to_list(maps:get(node, Rust))]]) =:= 1 end, 15000),
    Rust.

cmd(Config, Command) -> grid:cmd(?config(redis, Config), Command).

hash(Config, Key) -> pairs(cmd(Config, ["HGETALL", Key])).

pairs([]) -> #{};
pairs([K, V | Rest]) -> (pairs(Rest))#{K => V}.

%% What it answers to an Erlang node.
nodes_of(Config, #{node := Rust}) -> grid:call(?config(beam, Config), rpc, call, [Rust, redgrid, nodes, []]).

names(Nodes) -> lists:sort([Node || {Node, _} <- Nodes]).

%% ---------------------------------------------------------------- the schema

the_classic_hash_has_ip_and_meta_and_nothing_else(Config) ->
    start(Config),
    ?assertEqual(#{<<"ip">> => <<"127.0.0.1">>, <<"weight">> => <<"0">>, <<"lang">> => <<"rust">>}, hash(Config, ?KEY)).

the_classic_key_ends_within_a_minute_unless_it_is_renewed(Config) ->
    start(Config),
    Left = cmd(Config, ["PTTL", ?KEY]),
    ?assert(Left > 0 andalso Left =< 60000),
    %% Renewed after 10 s, or after 20 s while no classic member is known.
    grid:until(fun() -> cmd(Config, ["PTTL", ?KEY]) < 59000 end, 5000),
    grid:until(fun() -> cmd(Config, ["PTTL", ?KEY]) > 59000 end, 50000).

the_info_hash_tells_the_rest(Config) ->
    #{port := Port, node := Rust} = start(Config),
    Info = hash(Config, "redgrid.info:d:v:rust@127.0.0.1"),
    ?assertMatch(#{<<"v">> := <<"1">>, <<"proto">> := <<"tcp">>, <<"status">> := <<"up">>,
                   <<"impl">> := <<"redgrid", _/binary>>}, Info),
    ?assertEqual(integer_to_binary(Port), maps:get(<<"port">>, Info)),
    Creation = grid:call(?config(beam, Config), rpc, call, [Rust, erlang, system_info, [creation]]),
    ?assertEqual(integer_to_binary(Creation), maps:get(<<"creation">>, Info)),
    ?assertEqual(<<"false">>, maps:get(<<"hidden">>, Info)),
    %% The typed meta: triples of binaries, no atoms, nothing compressed.
    <<131, Tag, _/binary>> = Typed = maps:get(<<"meta">>, Info),
    ?assertNotEqual(80, Tag),
    ?assertEqual([{<<"lang">>, <<"a">>, <<"rust">>}, {<<"weight">>, <<"i">>, <<"0">>}],
                 lists:sort(binary_to_term(Typed, [safe]))),
    Left = cmd(Config, ["PTTL", "redgrid.info:d:v:rust@127.0.0.1"]),
    ?assert(Left > 0 andalso Left =< 60000).

the_index_has_when_the_registration_ends(Config) ->
    start(Config),
    [Seconds, Micros] = [binary_to_integer(T) || T <- cmd(Config, ["TIME"])],
    Ends = binary_to_integer(cmd(Config, ["ZSCORE", "redgrid.index:d:v", "rust@127.0.0.1"])),
    Left = Ends - (Seconds * 1000 + Micros div 1000),
    ?assert(Left > 0 andalso Left =< 60000),
    ?assertEqual([<<"rust@127.0.0.1">>], cmd(Config, ["ZRANGE", "redgrid.index:d:v", 0, -1])).

no_other_key_matches_the_classic_pattern(Config) ->
    start(Config),
    ?assertEqual([<<?KEY>>], cmd(Config, ["KEYS", "redgrid:*"])),
    Known = [?KEY, "redgrid.info:d:v:rust@127.0.0.1", "redgrid.index:d:v", "redgrid.scan:d:v", "redgrid.log:d:v"],
    ?assertEqual([], cmd(Config, ["KEYS", "*"]) -- [list_to_binary(Key) || Key <- Known]).

a_ping_is_answered_with_the_key(Config) ->
    start(Config),
    %% Its own joining says `ping` as well; that has to be over.
    grid:until(fun() -> cmd(Config, ["PUBSUB", "NUMSUB", "redgrid:d:v"]) =:= [<<"redgrid:d:v">>, 1] end, 15000),
    grid:subscribe(?config(redis, Config), ["redgrid:d:v"]),
    _ = cmd(Config, ["DEL", ?KEY]),
    _ = cmd(Config, ["PUBLISH", "redgrid:d:v", "ping"]),
    ?assertEqual(<<?KEY>>, published("redgrid:d:v", <<?KEY>>)),
    ?assertMatch(#{<<"ip">> := _, <<"weight">> := _}, hash(Config, ?KEY)).

published(Channel, Message) ->
    C = list_to_binary(Channel),
    receive {published, C, Message} -> Message after 15000 -> {not_published, process_info(self(), messages)} end.

a_new_meta_is_announced_at_once(Config) ->
    #{node := Rust} = start(Config),
    grid:subscribe(?config(redis, Config), ["redgrid:d:v", "redgrid.events:d:v"]),
    ok = grid:call(?config(beam, Config), rpc, call, [Rust, redgrid, update_meta, [[{weight, 50}]]]),
    ?assertEqual(<<?KEY>>, published("redgrid:d:v", <<?KEY>>)),
    ?assertEqual(#{<<"ip">> => <<"127.0.0.1">>, <<"weight">> => <<"50">>}, hash(Config, ?KEY)),
    Event = receive {published, <<"redgrid.events:d:v">>, Bytes} -> binary_to_term(Bytes, [safe]) after 15000 -> none end,
    ?assertMatch(#{<<"v">> := 1, <<"event">> := <<"meta">>, <<"node">> := <<"rust@127.0.0.1">>, <<"ip">> := <<"127.0.0.1">>,
                   <<"meta">> := [{<<"weight">>, <<"i">>, <<"50">>}]}, Event).

a_node_that_leaves_deletes_its_keys_and_ends_with_0(Config) ->
    Rust = start(Config),
    grid:subscribe(?config(redis, Config), ["redgrid.events:d:v"]),
    {Code, Ms} = rust:stop(Rust),
    grid:measured("left after", Ms),
    ?assertEqual(0, Code),
    ?assert(Ms < 15000),
    ?assertEqual([], cmd(Config, ["KEYS", "redgrid:*"]) ++ cmd(Config, ["KEYS", "redgrid.info:*"])),
    ?assertEqual([], cmd(Config, ["ZRANGE", "redgrid.index:d:v", 0, -1])),
    ?assertMatch(#{<<"event">> := <<"left">>, <<"node">> := <<"rust@127.0.0.1">>},
                 receive {published, _, Bytes} -> binary_to_term(Bytes, [safe]) after 5000 -> none end).

a_node_that_leaves_while_redis_does_not_answer_ends_all_the_same(Config) ->
    Rust = start(Config),
    #{handle := Redis} = ?config(redis, Config),
    launch:signal(Redis, stop),
    {Code, Ms} = rust:stop(Rust),
    launch:signal(Redis, cont),
    grid:measured("left after", Ms),
    ?assertEqual(0, Code),
    ?assert(Ms < 15000).

%% ---------------------------------------------------------------- the Erlang redgrid of 2011

a_talking_classic_node_and_a_rust_node_find_each_other(Config) -> both_orders(Config, talking).

a_polling_classic_node_and_a_rust_node_find_each_other(Config) -> both_orders(Config, polling).

%% One classic node that was there before, one that comes later.
both_orders(Config, Dialect) ->
    Before = classic(Config, Dialect, before),
    Rust = start(Config),
    After = classic(Config, Dialect, later),
    All = lists:sort(['before@127.0.0.1', 'later@127.0.0.1', 'rust@127.0.0.1']),
    grid:until(fun() -> All -- names(nodes_of(Config, Rust)) =:= [] orelse nodes_of(Config, Rust) end, 50000),
    ?assertEqual([{<<"ip">>, <<"127.0.0.1">>}, {<<"zone">>, <<"eu">>}],
                 lists:sort(proplists:get_value('before@127.0.0.1', nodes_of(Config, Rust)))),
    [begin
         grid:until(fun() -> lists:keymember('rust@127.0.0.1', 1, grid:call(Classic, classic, nodes, [])) end, 50000),
         ?assertEqual([{<<"ip">>, <<"127.0.0.1">>}, {<<"lang">>, <<"rust">>}, {<<"weight">>, <<"0">>}],
                      lists:sort(proplists:get_value('rust@127.0.0.1', grid:call(Classic, classic, nodes, [])))),
         grid:until(fun() -> lists:member('rust@127.0.0.1', grid:call(Classic, erlang, nodes, [])) end, 15000)
     end || Classic <- [Before, After]],
    %% The connections are to and from the Rust node: it dials what it finds.
    [grid:until(fun() -> connected(Config, Rust, Node) end, 15000) || Node <- ['before@127.0.0.1', 'later@127.0.0.1']].

classic(Config, Dialect, Name) ->
    Peer = grid:peer(Name),
    _ = grid:call(Peer, classic, start, [Dialect, maps:remove(handle, ?config(redis, Config)), "d", "v", [{"zone", "eu"}]]),
    Peer.

%% ---------------------------------------------------------------- rubbish

%% Bad is put into Redis; told is what says so, once, however often it is met.
told_once(Config, Bad, Regex) ->
    Rust = start(Config),
    Before = nodes_of(Config, Rust),
    lists:foreach(fun(_) -> [_ = cmd(Config, Command) || Command <- Bad] end, lists:seq(1, 3)),
    Line = rust:saying(Rust, Regex),
    ct:log("~ts", [Line]),
    %% What is said later is answered, so the rubbish is behind it.
    Other = start(Config, other),
    grid:eventually(lists:sort(['rust@127.0.0.1', 'other@127.0.0.1']), fun() -> names(nodes_of(Config, Rust)) end),
    ?assertEqual(1, rust:said(Rust, Regex)),
    ?assertEqual([maps:get(node, Other)], names(nodes_of(Config, Rust)) -- names(Before)).

a_hash_without_ip_is_told_once(Config) ->
    Key = "redgrid:d:v:noip@127.0.0.1",
    told_once(Config, [["HSET", Key, "weight", 1], ["PUBLISH", "redgrid:d:v", Key]],
              "WARN.*noip@127.0.0.1.*ip").

a_key_that_is_no_hash_is_told_once(Config) ->
    Key = "redgrid:d:v:string@127.0.0.1",
    told_once(Config, [["SET", Key, "text"], ["PUBLISH", "redgrid:d:v", Key]],
              "WARN.*string@127.0.0.1.*hash").

a_node_name_that_is_none_is_told_once(Config) ->
    Key = "redgrid:d:v:no node name",
    told_once(Config, [["HSET", Key, "ip", "127.0.0.1"], ["PUBLISH", "redgrid:d:v", Key]],
              "WARN.*no node name").

rubbish_on_the_channels_is_told_once(Config) ->
    told_once(Config, [["PUBLISH", "redgrid:d:v", "\e[31mrubbish\r\n"], ["PUBLISH", "redgrid:d:v", "another:key:x@y"],
                       ["PUBLISH", "redgrid.events:d:v", "rubbish"],
                       ["PUBLISH", "redgrid.events:d:v", term_to_binary({a, tuple})]],
              "WARN.*redgrid:d:v.*rubbish").

a_registration_of_a_node_that_is_not_there_is_listed_until_it_ends(Config) ->
    Rust = start(Config),
    Key = "redgrid:d:v:nobody@127.0.0.1",
    _ = cmd(Config, ["HSET", Key, "ip", "127.0.0.1"]),
    _ = cmd(Config, ["EXPIRE", Key, 8]),
    _ = cmd(Config, ["PUBLISH", "redgrid:d:v", Key]),
    %% Nobody answers when it is dialled, but only those who were connected are out of the view with their connection.
    grid:until(fun() -> lists:member('nobody@127.0.0.1', names(nodes_of(Config, Rust))) end, 7000),
    grid:eventually(['rust@127.0.0.1'], fun() -> names(nodes_of(Config, Rust)) end),
    ?assertEqual(0, cmd(Config, ["EXISTS", Key])),
    ?assertEqual(pong, grid:call(?config(beam, Config), net_adm, ping, ['rust@127.0.0.1'])).

%% ---------------------------------------------------------------- a Redis that is not there

a_node_that_starts_without_redis_registers_when_it_is_there(Config) ->
    Port = grid:free_port(),
    Url = "redis://127.0.0.1:" ++ integer_to_list(Port) ++ "/",
    #{node := Node} = Rust = rust:start(rust, #{redis => Url, domain => "d", version => "v"}),
    rust:saying(Rust, "WARN.*127.0.0.1:" ++ integer_to_list(Port) ++ ".*(stays up|keeps trying)"),
    ?assertEqual([{Node, [{<<"ip">>, <<"127.0.0.1">>}]}], nodes_of(Config, Rust)),
    Late = grid:redis(#{port => Port}),
    grid:until(fun() -> grid:cmd(Late, ["EXISTS", ?KEY]) =:= 1 end, 30000),
    %% It was said once that Redis is away, not at each attempt.
    ?assertEqual(1, rust:said(Rust, "keeps trying")).

a_node_keeps_its_connections_and_view_while_redis_is_away(Config) ->
    #{port := Port, handle := Handle} = ?config(redis, Config),
    One = start(Config),
    Two = #{node := NodeTwo} = start(Config, two),
    Both = lists:sort(['rust@127.0.0.1', NodeTwo]),
    grid:eventually(Both, fun() -> names(nodes_of(Config, One)) end),
    grid:until(fun() -> connected(Config, One, NodeTwo) end, 15000),
    launch:signal(Handle, kill),
    {ok, _} = launch:wait_exit(Handle, 5000),
    rust:saying(One, "WARN.*keeps trying"),
    ?assertEqual(Both, names(nodes_of(Config, One))),
    ?assert(connected(Config, One, NodeTwo)),
    %% What is changed meanwhile is told when Redis is back.
    ?assertEqual(ok, grid:call(?config(beam, Config), rpc, call, ['rust@127.0.0.1', redgrid, update_meta, [[{weight, 7}]]])),
    Back = grid:redis(#{port => Port}),
    grid:until(fun() -> grid:cmd(Back, ["HGET", ?KEY, "weight"]) =:= <<"7">> end, 30000),
    grid:until(fun() ->
        Meta = proplists:get_value('rust@127.0.0.1', nodes_of(Config, Two), []),
        proplists:get_value(<<"weight">>, Meta) =:= <<"7">>
    end, 30000),
    ?assertEqual(Both, names(nodes_of(Config, One))),
    ?assertEqual(0, rust:said(One, "disconnected.*two@127.0.0.1|two@127.0.0.1.*disconnected")).

connected(Config, #{node := Rust}, Node) ->
    lists:member(Node, grid:call(?config(beam, Config), rpc, call, [Rust, erlang, nodes, []])).

a_redis_that_lost_everything_is_filled_again(Config) ->
    Rust = start(Config),
    ok = cmd(Config, ["FLUSHALL"]),
    grid:until(fun() -> cmd(Config, ["EXISTS", ?KEY]) =:= 1 end, 50000),
    ?assertEqual(['rust@127.0.0.1'], names(nodes_of(Config, Rust))).

a_redis_that_asks_for_a_password_is_told_clearly(Config) ->
    Guarded = #{url := Url} = grid:redis(#{password => "sesame"}),
    Address = lists:last(string:split(Url, "@")),
    Without = "redis://" ++ Address,
    Rust = rust:start(rust, #{redis => Without, domain => "d", version => "v"}),
    rust:saying(Rust, "WARN.*password"),
    ?assertEqual(pong, grid:call(?config(beam, Config), net_adm, ping, ['rust@127.0.0.1'])),
    Wrong = rust:start(wrong, #{redis => "redis://:bad_sesame@" ++ Address, domain => "d", version => "v"}),
    rust:saying(Wrong, "WARN.*password"),
    ?assertEqual(0, rust:said(Wrong, "sesame")),
    Right = rust:start(right, #{redis => Url, domain => "d", version => "v"}),
    grid:until(fun() -> grid:cmd(Guarded, ["EXISTS", "redgrid:d:v:right@127.0.0.1"]) =:= 1 end, 15000),
    ?assertEqual(0, rust:said(Right, "sesame")).
