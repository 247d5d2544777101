%% The command line: what it prints, its exit codes (0 done, 1 it failed, 2 bad usage), and that whatever is wrong is
%% said in one clear line with its mend.
-module(cli_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include_lib("common_test/include/ct.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([ping_of_an_erlang_node_gives_pong/1,
         ping_of_a_rust_node_gives_pong/1,
         ping_of_a_node_that_is_not_there_fails/1,
         ping_with_another_cookie_fails_and_tells_of_the_cookie/1,
         ping_takes_the_name_style_of_its_target/1,
         call_prints_the_value_in_erlang_syntax/1,
         call_takes_arguments_in_erlang_syntax/1,
         call_prints_json/1,
         call_tells_why_it_failed/1,
         call_gives_up_after_its_timeout/1,
         cast_runs_the_function/1,
         send_delivers_the_message/1,
         a_command_leaves_no_trace_in_epmd/1,
         suspend_and_resume_say_ok/1,
         nodes_lists_the_mesh/1,
         nodes_of_an_unreachable_redis_fails_with_its_address/1,
         await_waits_for_nodes/1,
         names_lists_what_epmd_knows/1,
         names_fails_without_an_epmd/1,
         bad_usage_exits_with_2/1,
         a_wrong_node_name_is_refused/1,
         a_cookie_file_that_others_can_read_is_refused/1,
         a_cookie_file_is_used/1,
         a_port_in_use_is_refused/1,
         a_setting_comes_from_the_environment/1,
         a_hangup_is_ignored/1,
         an_interrupt_ends_a_node_with_0/1]).

suite() -> [{timetrap, {minutes, 1}}].

all() -> grid:cases(?MODULE).

init_per_suite(Config) ->
    Redis = grid:redis(),
    Rust = rust:start(rust, #{redis => Redis, domain => "cli", args => ["--echo", "--meta", "weight=0"]}),
    grid:until(fun() -> grid:cmd(Redis, ["EXISTS", "redgrid:cli::rust@127.0.0.1"]) =:= 1 end, 15000),
    [{redis, Redis}, {rust, Rust}, {beam, grid:peer(beam)} | Config].

end_per_suite(_) -> grid:stop_since([]).

init_per_testcase(_, Config) -> [{running, grid:running()} | Config].

end_per_testcase(_, Config) -> grid:stop_since(?config(running, Config)).

mesh(Config) -> ["--redis", maps:get(url, ?config(redis, Config)), "--domain", "cli"].

-define(TARGET, "beam@127.0.0.1").

%% It failed with that code and one line that says why.
fails(Code, Regex, Args) -> fails(Code, Regex, Args, []).

fails(Code, Regex, Args, Env) ->
    {Got, Text} = rust:fails(Args, Env),
    ?assertEqual({Code, match, Text}, {Got, re:run(Text, Regex, [{capture, none}]), Text}),
    Said = [Line || Line <- string:lexemes(Text, "\n"), string:find(Line, "redgrid: ") =:= Line],
    ?assertMatch([_], Said),
    ?assertEqual(nomatch, string:find(Text, "panicked")).

%% ---------------------------------------------------------------- ping

ping_of_an_erlang_node_gives_pong(_) ->
    ?assertMatch({0, "pong" ++ _}, rust:run(["ping", ?TARGET])).

ping_of_a_rust_node_gives_pong(_) ->
    ?assertMatch({0, "pong" ++ _}, rust:run(["ping", "rust@127.0.0.1"])).

ping_of_a_node_that_is_not_there_fails(_) ->
    fails(1, "nobody.*redgrid names", ["ping", "nobody@127.0.0.1"]).

ping_with_another_cookie_fails_and_tells_of_the_cookie(_) ->
    fails(1, "beam@127.0.0.1.*cookie", ["ping", ?TARGET, "--cookie", "not_the_cookie"]),
    fails(1, "rust@127.0.0.1.*cookie", ["ping", "rust@127.0.0.1"], [{"REDGRID_COOKIE", "not_the_cookie"}]).

ping_takes_the_name_style_of_its_target(_) ->
    {ok, Peer, Node} = peer:start(#{name => short, longnames => false, host => "localhost", connection => standard_io,
                                    args => ["-setcookie", atom_to_list(erlang:get_cookie())]}),
    ?assertEqual('short@localhost', Node),
    ?assertMatch({0, "pong" ++ _}, rust:run(["ping", "short@localhost"])),
    peer:stop(Peer).

%% ---------------------------------------------------------------- call, cast, send

call_prints_the_value_in_erlang_syntax(_) ->
    Release = io_lib:format("~p", [erlang:system_info(otp_release)]),
    ?assertEqual({0, lists:flatten(Release)}, rust:run(["call", ?TARGET, "erlang", "system_info", "otp_release"])),
    ?assertEqual({0, "'beam@127.0.0.1'"}, rust:run(["call", ?TARGET, "erlang", "node"])),
    ?assertEqual({0, "'rust@127.0.0.1'"}, rust:run(["call", "rust@127.0.0.1", "erlang", "node"])).

call_takes_arguments_in_erlang_syntax(_) ->
    ?assertEqual({0, "[1,2,3]"}, rust:run(["call", ?TARGET, "lists", "seq", "1", "3"])),
    ?assertEqual({0, "5"}, rust:run(["call", ?TARGET, "erlang", "abs", "-5"])),
    {0, Text} = rust:run(["call", ?TARGET, "erlang", "hd", "[{a,\"text\",<<\"binary\">>,#{k => [-1,1.5]},'An Atom'}]"]),
    ?assertEqual({a, "text", <<"binary">>, #{k => [-1, 1.5]}, 'An Atom'}, term(Text)).

term(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text ++ "."),
    {ok, Term} = erl_parse:parse_term(Tokens),
    Term.

call_prints_json(_) ->
    {0, Text} = rust:run(["call", ?TARGET, "maps", "from_list", "[{<<\"a\">>,1}]", "--json"]),
    ?assertEqual("{\"a\":1}", [C || C <- Text, C > 32]).

call_tells_why_it_failed(_) ->
    fails(1, "no such function.*no_module", ["call", ?TARGET, "no_module", "no_function"]),
    fails(1, "no such function.*no_module", ["call", "rust@127.0.0.1", "no_module", "no_function"]),
    fails(1, "badarith|exception", ["call", ?TARGET, "erlang", "div", "1", "0"]),
    fails(1, "argument 1", ["call", ?TARGET, "erlang", "abs", "{no term"]),
    fails(1, "nobody", ["call", "nobody@127.0.0.1", "erlang", "node"]).

call_gives_up_after_its_timeout(_) ->
    fails(1, "beam@127.0.0.1.*1 s.*--timeout", ["call", ?TARGET, "timer", "sleep", "20000", "--timeout", "1"]).

cast_runs_the_function(Config) ->
    ?assertEqual({0, ""}, rust:run(["cast", ?TARGET, "application", "set_env", "cli", "cast", "arrived"])),
    grid:until(fun() -> grid:call(?config(beam, Config), application, get_env, [cli, cast]) =:= {ok, arrived} end, 5000).

send_delivers_the_message(Config) ->
    Beam = ?config(beam, Config),
    Receiver = grid:on(Beam, fun() ->
        Pid = spawn(fun() -> receive First -> receive {tell, To} -> To ! First end end end),
        true = register(receiver, Pid),
        Pid
    end),
    ?assertEqual({0, ""}, rust:run(["send", ?TARGET, "receiver", "{hello,-1,\"text\"}"])),
    Got = grid:on(Beam, fun() -> Receiver ! {tell, self()}, receive M -> M after 5000 -> none end end),
    ?assertEqual({hello, -1, "text"}, Got).

a_command_leaves_no_trace_in_epmd(Config) ->
    {ok, Before} = net_adm:names({127, 0, 0, 1}),
    {ok, Handle} = launch:start(redgrid, ["call", ?TARGET, "timer", "sleep", "1000"]),
    grid:until(fun() -> grid:call(?config(beam, Config), erlang, nodes, [hidden]) =/= [] end, 5000),
    {ok, During} = net_adm:names({127, 0, 0, 1}),
    ?assertEqual(lists:sort(Before), lists:sort(During)),
    ?assertEqual({ok, 0}, launch:wait_exit(Handle, 10000)).

suspend_and_resume_say_ok(Config) ->
    ?assertEqual({0, "ok"}, rust:run(["suspend", "rust@127.0.0.1"])),
    grid:until(fun() -> element(2, rust:run(["nodes", "--json" | mesh(Config)])) =:= "[]" end, 5000),
    {0, All} = rust:run(["nodes", "--all", "--json" | mesh(Config)]),
    ?assertMatch({match, _}, re:run(All, "\"status\": *\"suspended\"")),
    ?assertEqual({0, "ok"}, rust:run(["resume", "rust@127.0.0.1"])),
    grid:until(fun() -> element(2, rust:run(["nodes", "--json" | mesh(Config)])) =/= "[]" end, 5000).

%% ---------------------------------------------------------------- what is there

nodes_lists_the_mesh(Config) ->
    {0, Json} = rust:run(["nodes", "--json" | mesh(Config)]),
    ?assertMatch({match, _}, re:run(Json, "\"node\": *\"rust@127.0.0.1\"")),
    ?assertMatch({match, _}, re:run(Json, "\"weight\": *0")),
    Port = integer_to_list(maps:get(port, ?config(rust, Config))),
    ?assertMatch({match, _}, re:run(Json, "\"port\": *" ++ Port)),
    {0, Table} = rust:run(["nodes" | mesh(Config)]),
    ?assertMatch({match, _}, re:run(Table, "rust@127.0.0.1 .*weight=0")).

nodes_of_an_unreachable_redis_fails_with_its_address(_) ->
    fails(1, "127.0.0.1:1\\b", ["nodes", "--redis", "redis://:hush@127.0.0.1:1/"]),
    {1, Text} = rust:fails(["nodes", "--redis", "redis://:hush@127.0.0.1:1/"]),
    ?assertEqual(nomatch, string:find(Text, "hush")).

await_waits_for_nodes(Config) ->
    ?assertMatch({0, _}, rust:run(["await", "--nodes", "1", "--timeout", "5" | mesh(Config)])),
    fails(1, "1", ["await", "--nodes", "7", "--timeout", "1" | mesh(Config)]),
    {ok, Handle} = launch:start(redgrid, ["await", "--nodes", "2", "--timeout", "30" | mesh(Config)]),
    _ = rust:start(second, #{redis => ?config(redis, Config), domain => "cli"}),
    ?assertEqual({ok, 0}, launch:wait_exit(Handle, 30000)).

names_lists_what_epmd_knows(Config) ->
    {0, Text} = rust:run(["names"]),
    Port = integer_to_list(maps:get(port, ?config(rust, Config))),
    ?assert(lists:member("rust " ++ Port, string:lexemes(Text, "\n"))),
    ?assertMatch({match, _}, re:run(Text, "^beam [0-9]+$", [multiline])).

names_fails_without_an_epmd(_) ->
    Port = integer_to_list(grid:free_port()),
    fails(1, "epmd at 127.0.0.1:" ++ Port, ["names", "--epmd-port", Port]).

%% ---------------------------------------------------------------- what is wrong

bad_usage_exits_with_2(_) ->
    [?assertMatch({2, _}, rust:fails(Args))
     || Args <- [[], ["nonsense"], ["node", "--nonsense"], ["ping"], ["ping", "no_host"], ["call", ?TARGET],
                 ["node", "--name", "a@127.0.0.1", "--sname", "b"], ["node", "--net-ticktime", "soon"],
                 ["node", "--meta", "no_value"], ["node", "--meta", "ip=10.0.0.1"], ["node", "--redis", "http://127.0.0.1/"],
                 ["node", "--max-frame", "-1"], ["node", "--listen", "nowhere"], ["node", "--peers", "10.0.0.0/99"]]].

a_wrong_node_name_is_refused(_) ->
    [fails(2, "--(name|sname)", ["node", Flag, Name])
     || {Flag, Name} <- [{"--name", "two@at@host"}, {"--name", "a b@127.0.0.1"}, {"--name", "@127.0.0.1"},
                         {"--name", "short@host"}, {"--sname", "long@host.example.org"}]].

a_cookie_file_that_others_can_read_is_refused(_) ->
    {ok, Path} = launch:file("cookie", 8#644, "a_secret_that_nobody_sees"),
    fails(1, "chmod 400", ["node", "--name", "n@127.0.0.1", "--cookie-file", Path]),
    {1, Text} = rust:fails(["ping", ?TARGET, "--cookie-file", Path]),
    ?assertEqual(nomatch, string:find(Text, "a_secret_that_nobody_sees")),
    fails(1, "no such file", ["node", "--name", "n@127.0.0.1", "--cookie-file", Path ++ ".not"]).

a_cookie_file_is_used(_) ->
    {ok, Path} = launch:file("cookie", 8#400, [atom_to_list(erlang:get_cookie()), "\n"]),
    ?assertMatch({0, "pong" ++ _}, rust:run(["ping", ?TARGET, "--cookie-file", Path], [{"HOME", "/nonexistent"}])).

a_port_in_use_is_refused(_) ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    Text = integer_to_list(Port),
    fails(1, Text ++ ".*--listen", ["node", "--name", "n@127.0.0.1", "--listen", "127.0.0.1:" ++ Text]),
    gen_tcp:close(Socket).

a_setting_comes_from_the_environment(Config) ->
    #{url := Url} = Redis = ?config(redis, Config),
    {ok, _} = launch:start(redgrid, ["node"], [{"REDGRID_NAME", "env@127.0.0.1"}, {"REDIS_URL", Url}, {"DOMAIN", "env"},
                                               {"REDGRID_META", "a=1,b=two"}]),
    grid:eventually([<<"1">>, <<"two">>], fun() -> grid:cmd(Redis, ["HMGET", "redgrid:env::env@127.0.0.1", "a", "b"]) end).

a_hangup_is_ignored(Config) ->
    Rust = ?config(rust, Config),
    launch:signal(maps:get(handle, Rust), hup),
    rust:saying(Rust, "SIGHUP"),
    ?assertMatch({0, "pong" ++ _}, rust:run(["ping", "rust@127.0.0.1"])).

an_interrupt_ends_a_node_with_0(Config) ->
    #{handle := Handle} = rust:start(interrupted, #{redis => ?config(redis, Config), domain => "interrupted"}),
    launch:signal(Handle, int),
    ?assertEqual({ok, 0}, launch:wait_exit(Handle, 15000)).
