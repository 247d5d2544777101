#!/usr/bin/env escript
%%! +Bi -kernel logger_level error
%% -*- erlang -*-
%%
%% Starts programs on the host for Common Test suites, which may themselves run in a chroot with
%% another OTP release, where the host's programs cannot be executed. Only the loopback is shared.
%%
%%     suite (launch.erl)                                   launcher
%%       | -- {start, Secret, redgrid | redis, Args, Env} --> | one connection is one program
%%       | <-- {started, OsPid} or {refused, Why} ----------- |
%%       | <-- {line, Binary} ... --------------------------- | its stdout and stderr
%%       | -- {signal, "TERM"} ... -------------------------> |
%%       | <-- {exit, Code} --------------------------------- | 128 + N when signal N ended it
%%       | -- {file, Secret, Name, Mode, Bytes} ------------> | or: one connection is one file,
%%       | <-- {written, Path} ------------------------------ | gone with the launcher
%%       | -- {hold, Secret} -------------------------------> | or: nothing, but it closes when the
%%                                                            | launcher ends
%%
%% Messages are external terms, each after its length in four bytes. Each program runs in a
%% temporary directory of its own. Whatever closes the connection kills the program and what it
%% started.
%%
%% The launcher also keeps the run's epmd, and it is what ends the run: when its stdin closes, be it
%% that whoever started it was killed with -9, it kills the programs and epmd, lets go of the node
%% that holds on to it, and removes the directories named by its arguments. Nothing is left.
%%
%% Environment: REDGRID_SECRET (other users of the machine can reach the loopback too), REDGRID_BIN.
%% The first line of stdout is its own port and epmd's. Programs run in the first directory.

main([Work | _] = Directories) ->
    process_flag(trap_exit, true),
    Secret = list_to_binary(os:getenv("REDGRID_SECRET")),
    {ok, Listen} = listen([{packet, 4}, {packet_size, 16#4000000}]),
    {ok, Port} = inet:port(Listen),
    {Epmd, EpmdPort} = start_epmd(5),
    %% Every program gets it from our environment.
    os:putenv("ERL_EPMD_PORT", integer_to_list(EpmdPort)),
    io:format("~b ~b~n", [Port, EpmdPort]),
    Main = self(),
    spawn_link(fun() -> until_eof(), Main ! eof end),
    spawn_link(fun() -> accept(Main, Listen, Secret, Work) end),
    supervise(sets:new()),
    kill_group(Epmd),
    lists:foreach(fun file:del_dir_r/1, Directories),
    halt(0).

listen(Options) ->
    gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}} | Options]).

%% Somebody else may take the port between our choice and epmd's: then we choose again.
start_epmd(Tries) ->
    {ok, Socket} = listen([]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Epmd = open_port({spawn_executable, os:find_executable("epmd")},
                     [exit_status, stderr_to_stdout, use_stdio,
                      {args, ["-port", integer_to_list(Port), "-address", "127.0.0.1"]}]),
    case epmd_answers(Epmd, Port, 200) of
        true ->
            {os_pid, OsPid} = erlang:port_info(Epmd, os_pid),
            {OsPid, Port};
        false when Tries > 1 ->
            start_epmd(Tries - 1)
    end.

%% True once our epmd, and no stranger on its port, takes connections.
epmd_answers(_, _, 0) -> false;
epmd_answers(Epmd, Port, Tries) ->
    receive
        {Epmd, {exit_status, _}} -> false
    after 25 ->
        case gen_tcp:connect({127, 0, 0, 1}, Port, []) of
            {ok, Socket} -> gen_tcp:close(Socket), erlang:port_info(Epmd) =/= undefined;
            {error, _} -> epmd_answers(Epmd, Port, Tries - 1)
        end
    end.

until_eof() ->
    case io:get_line("") of
        Line when is_list(Line); is_binary(Line) -> until_eof();
        _ -> ok
    end.

accept(Main, Listen, Secret, Work) ->
    {ok, Socket} = gen_tcp:accept(Listen),
    Pid = spawn(fun() -> receive go -> serve(Socket, Secret, Work) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Main ! {serving, Pid},
    Pid ! go,
    accept(Main, Listen, Secret, Work).

supervise(Serving) ->
    receive
        {serving, Pid} ->
            monitor(process, Pid),
            supervise(sets:add_element(Pid, Serving));
        {'DOWN', _, process, Pid, _} ->
            supervise(sets:del_element(Pid, Serving));
        eof ->
            [Pid ! shutdown || Pid <- sets:to_list(Serving)],
            drain(sets:size(Serving));
        {Port, {data, _}} when is_port(Port) -> % epmd has something to say; its exit code says more
            supervise(Serving);
        {Port, {exit_status, Code}} when is_port(Port) ->
            io:format(standard_error, "launcher: epmd ended with ~b~n", [Code]),
            supervise(Serving);
        {'EXIT', _, normal} ->
            supervise(Serving);
        {'EXIT', _, Why} ->
            io:format(standard_error, "launcher: ~p~n", [Why]),
            self() ! eof,
            supervise(Serving)
    end.

drain(0) -> ok;
drain(N) ->
    receive {'DOWN', _, process, _, _} -> drain(N - 1)
    after 10000 -> io:format(standard_error, "launcher: some programs do not end~n", [])
    end.

%% ---------------------------------------------------------------- one connection

serve(Socket, Secret, Work) ->
    %% `safe`: no atom that we do not know already.
    case gen_tcp:recv(Socket, 0, 10000) of
        {ok, Frame} ->
            case binary_to_term(Frame, [safe]) of
                {start, Secret, Program, Args, Env} ->
                    start(Socket, program(Program), Args, Env, Work);
                {file, Secret, Name, Mode, Bytes} ->
                    tell(Socket, write(Name, Mode, Bytes, Work));
                {hold, Secret} ->
                    ok = inet:setopts(Socket, [{active, true}]),
                    linger(Socket);
                _ ->
                    tell(Socket, {refused, bad_request})
            end;
        {error, _} ->
            ok
    end.

program(redis) -> find(os:find_executable("redis-server"), "redis-server is not in PATH");
program(redgrid) -> find(os:getenv("REDGRID_BIN"), "REDGRID_BIN does not say where redgrid is").

find(false, Why) -> {refused, Why};
find(Path, _) ->
    case filelib:is_regular(Path) of
        true -> {ok, Path};
        false -> {refused, Path ++ " is not there"}
    end.

start(Socket, {refused, Why}, _, _, _) ->
    tell(Socket, {refused, Why});
start(Socket, {ok, Path}, Args, Env, Work) ->
    Dir = filename:join(Work, "run-" ++ unique()),
    ok = file:make_dir(Dir),
    try open_port({spawn_executable, Path},
                  [binary, exit_status, stderr_to_stdout, use_stdio, {line, 65536}, {cd, Dir},
                   {args, Args}, {env, Env}]) of
        Port ->
            OsPid = case erlang:port_info(Port, os_pid) of
                        {os_pid, P} -> P;
                        undefined -> undefined % it has ended already; {exit, _} follows
                    end,
            tell(Socket, {started, OsPid}),
            ok = inet:setopts(Socket, [{active, true}]),
            relay(Socket, Port, OsPid, [])
    catch
        error:Why -> tell(Socket, {refused, Why})
    after
        file:del_dir_r(Dir)
    end.

relay(Socket, Port, OsPid, Begun) ->
    receive
        {Port, {data, {noeol, Part}}} ->
            relay(Socket, Port, OsPid, [Begun, Part]);
        {Port, {data, {eol, Part}}} ->
            tell(Socket, {line, iolist_to_binary([Begun, Part])}),
            relay(Socket, Port, OsPid, []);
        {Port, {exit_status, Code}} ->
            case iolist_size(Begun) of
                0 -> ok;
                _ -> tell(Socket, {line, iolist_to_binary(Begun)})
            end,
            %% What it may have started itself ends with it.
            kill_group(OsPid),
            tell(Socket, {exit, Code}),
            linger(Socket);
        {tcp, Socket, Frame} ->
            case binary_to_term(Frame, [safe]) of
                {signal, Name} when OsPid =/= undefined -> kill(Name, integer_to_list(OsPid));
                _ -> ok
            end,
            relay(Socket, Port, OsPid, Begun);
        {tcp_closed, Socket} -> finish(Port, OsPid);
        {tcp_error, Socket, _} -> finish(Port, OsPid);
        shutdown -> finish(Port, OsPid)
    end.

%% There is nothing more to do until the other side closes.
linger(Socket) ->
    receive
        {tcp_closed, Socket} -> ok;
        {tcp_error, Socket, _} -> ok;
        shutdown -> ok;
        _ -> linger(Socket)
    end.

finish(Port, OsPid) ->
    kill_group(OsPid),
    receive {Port, {exit_status, _}} -> ok after 5000 -> ok end.

%% A program that erl starts leads a process group of its own.
kill_group(undefined) -> ok;
kill_group(OsPid) -> kill("KILL", "-" ++ integer_to_list(OsPid)).

kill(Signal, Target) ->
    os:cmd("kill -s " ++ Signal ++ " -- " ++ Target ++ " 2>&1").

write(Name, Mode, Bytes, Work) ->
    Dir = filename:join(Work, "file-" ++ unique()),
    Path = filename:join(Dir, filename:basename(Name)),
    ok = file:make_dir(Dir),
    ok = file:write_file(Path, Bytes),
    ok = file:change_mode(Path, Mode),
    {written, Path}.

unique() -> integer_to_list(erlang:unique_integer([positive])).

tell(Socket, Term) -> gen_tcp:send(Socket, term_to_binary(Term)).
