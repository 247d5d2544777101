%% Real servers as values for the tests: a free port each, readiness polled, and gone when stopped or when this Erlang
%% node ends, however it ends.
-module(redgrid_test_servers).
-export([redis/0, redis/1, epmd/0, stop/1, port/1, url/1, free_port/0, wait_until/1, wait_until/2]).

redis() -> redis([]).

redis(Args) ->
    Port = proplists:get_value(port, Args, free_port()),
    Extra = proplists:get_value(args, Args, []),
    Exe = executable("REDIS_SERVER", "redis-server"),
    start(Exe, ["--port", integer_to_list(Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", "/tmp" | Extra], Port).

epmd() ->
    Port = free_port(),
    start(executable("EPMD", "epmd"), ["-port", integer_to_list(Port), "-address", "127.0.0.1"], Port).

executable(Variable, Name) ->
    case os:getenv(Variable) of
        false ->
            case os:find_executable(Name) of
                false -> error({missing_server, Name, "install it, or name it in " ++ Variable});
                Path -> Path
            end;
        Path -> Path
    end.

%% The shell ends the server when its input ends, and that is when the port is closed or its owner dies.
start(Exe, Args, Port) ->
    Script = "\"$@\" <&- & pid=$!; cat >/dev/null; kill $pid; wait $pid",
    Handle = open_port({spawn_executable, "/bin/bash"},
                       [{args, ["-c", Script, "server", Exe | Args]}, exit_status, stderr_to_stdout, binary, {line, 1000}]),
    Server = {Handle, Port},
    wait_until(fun() -> listens(Port) end),
    Server.

stop({Handle, Port}) ->
    true = port_close(Handle),
    wait_until(fun() -> not listens(Port) end).

port({_, Port}) -> Port.

url({_, Port}) -> "redis://127.0.0.1:" ++ integer_to_list(Port) ++ "/".

listens(Port) ->
    case gen_tcp:connect("127.0.0.1", Port, [], 1000) of
        {ok, Socket} -> gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

wait_until(Condition) -> wait_until(Condition, 10000).

%% Until it is true; what it last gave otherwise tells why not.
wait_until(Condition, Left) ->
    case Condition() of
        true -> ok;
        Other when Left =< 0 -> error({never_true, Other});
        _ ->
            timer:sleep(20),
            wait_until(Condition, Left - 20)
    end.
