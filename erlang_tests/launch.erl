%% Programs of the host, for suites that may run in a chroot with another OTP release.
%%
%% A handle is a process that holds one connection to tests/tools/launcher.escript, which starts
%% the program and kills it when that connection ends. It is not linked to its caller, so a program
%% started in init_per_suite lives through the suite; one that is forgotten ends with the run.
%%
%%     {ok, H} = launch:start(redgrid, ["node", "--name", "rust@127.0.0.1"], [{"REDIS_URL", Url}]),
%%     {ok, _} = launch:wait_line(H, "listening", 5000),
%%     launch:signal(H, term),
%%     {ok, 0} = launch:wait_exit(H, 3000).
-module(launch).
-behaviour(gen_server).

-export([start/2, start/3, os_pid/1, lines/1, wait_line/3, signal/2, wait_exit/2, stop/1, file/3, hold/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).
-export_type([handle/0, program/0, signal/0]).

-type handle() :: pid().
-type program() :: redgrid | redis.
-type signal() :: term | kill | int | stop | cont | hup | quit | usr1.

-record(state, {socket :: gen_tcp:socket(),
                os_pid :: undefined | pos_integer(),
                lines = [] :: [binary()],         % all of them, newest first
                unread = [] :: [binary()],        % behind the last match, oldest first
                exit :: undefined | integer() | lost,
                waiting = [] :: [{reference(), gen_server:from(), exit | {line, term()}}]}).

%% ---------------------------------------------------------------- for suites

-spec start(program(), [string()]) -> {ok, handle()} | {error, term()}.
start(Program, Args) -> start(Program, Args, []).

%% The environment is the launcher's own (a temporary HOME, this run's ERL_EPMD_PORT) and Env; a
%% value of `false` removes a variable. The working directory is an empty one.
-spec start(program(), [string()], [{string(), string() | false}]) -> {ok, handle()} | {error, term()}.
start(Program, Args, Env) ->
    case gen_server:start(?MODULE, {Program, Args, Env}, []) of
        {ok, Handle} -> {ok, Handle};
        {error, {shutdown, Why}} -> {error, Why};
        {error, Why} -> {error, Why}
    end.

%% The process number on the host, which means nothing inside a chroot with its own numbers:
%% signal/2 is the way to signal it. `undefined` when it ended at once.
-spec os_pid(handle()) -> undefined | pos_integer().
os_pid(Handle) -> gen_server:call(Handle, os_pid).

%% Everything it has printed so far, on stdout and stderr, without line ends, oldest first.
-spec lines(handle()) -> [binary()].
lines(Handle) -> gen_server:call(Handle, lines).

%% The first line that matches and that comes after the line which the last wait_line gave.
%% The error carries all lines, so that a failing test shows them.
-spec wait_line(handle(), iodata(), timeout()) -> {ok, binary()} | {error, {timeout | exited, [binary()]}}.
wait_line(Handle, Regex, Timeout) ->
    {ok, Compiled} = re:compile(Regex),
    gen_server:call(Handle, {wait, {line, Compiled}, Timeout}, infinity).

-spec signal(handle(), signal()) -> ok.
signal(Handle, Signal) ->
    gen_server:call(Handle, {signal, string:uppercase(atom_to_list(Signal))}).

%% 128 + N when signal N ended it. `lost`: the launcher is gone. A program whose own children still
%% hold its stdout has not ended in this sense.
-spec wait_exit(handle(), timeout()) -> {ok, integer() | lost} | {error, {timeout, [binary()]}}.
wait_exit(Handle, Timeout) -> gen_server:call(Handle, {wait, exit, Timeout}, infinity).

%% Asks it to end (TERM), kills it after five seconds; the handle is gone afterwards.
-spec stop(handle()) -> ok.
stop(Handle) ->
    try
        signal(Handle, term),
        wait_exit(Handle, 5000),
        gen_server:stop(Handle)
    catch
        exit:{noproc, _} -> ok
    end.

%% A file on the host, of that mode (8#400), for programs to read; the path is theirs, not ours.
-spec file(string(), non_neg_integer(), iodata()) -> {ok, string()} | {error, term()}.
file(Name, Mode, Bytes) ->
    {Socket, Secret} = connect(),
    ok = ask(Socket, {file, Secret, Name, Mode, iolist_to_binary(Bytes)}),
    Answer = answer(Socket),
    gen_tcp:close(Socket),
    case Answer of
        {written, Path} -> {ok, Path};
        {refused, Why} -> {error, Why}
    end.

%% Ends this Erlang node when the launcher ends; for the node that runs the suites.
-spec hold() -> pid().
hold() ->
    spawn(fun() ->
                  {Socket, Secret} = connect(),
                  ok = ask(Socket, {hold, Secret}),
                  _ = gen_tcp:recv(Socket, 0),
                  halt(1)
          end).

%% ---------------------------------------------------------------- the handle

init({Program, Args, Env}) ->
    {Socket, Secret} = connect(),
    ok = ask(Socket, {start, Secret, Program, Args, Env}),
    case answer(Socket) of
        {started, OsPid} ->
            ok = inet:setopts(Socket, [{active, true}]),
            {ok, #state{socket = Socket, os_pid = OsPid}};
        {refused, Why} ->
            {stop, {shutdown, Why}}
    end.

handle_call(os_pid, _, State) ->
    {reply, State#state.os_pid, State};
handle_call(lines, _, State) ->
    {reply, lists:reverse(State#state.lines), State};
handle_call({signal, Name}, _, State) ->
    %% To a launcher that is gone there is nothing to say: the program went with it.
    _ = ask(State#state.socket, {signal, Name}),
    {reply, ok, State};
handle_call({wait, What, Timeout}, From, State) ->
    Ref = make_ref(),
    _ = [erlang:send_after(Timeout, self(), {timeout, Ref}) || Timeout =/= infinity],
    {noreply, serve(State#state{waiting = State#state.waiting ++ [{Ref, From, What}]})}.

handle_cast(_, State) -> {noreply, State}.

handle_info({tcp, _, Frame}, State) ->
    case binary_to_term(Frame) of
        {line, Line} ->
            {noreply, serve(State#state{lines = [Line | State#state.lines],
                                        unread = State#state.unread ++ [Line]})};
        {exit, Code} ->
            {noreply, serve(State#state{exit = Code})}
    end;
handle_info({tcp_closed, _}, #state{exit = undefined} = State) ->
    {noreply, serve(State#state{exit = lost})};
handle_info({timeout, Ref}, State) ->
    case lists:keytake(Ref, 1, State#state.waiting) of
        {value, {_, From, _}, Rest} ->
            gen_server:reply(From, {error, {timeout, lists:reverse(State#state.lines)}}),
            {noreply, State#state{waiting = Rest}};
        false ->
            {noreply, State}
    end;
handle_info(_, State) ->
    {noreply, State}.

%% Answers whoever can be answered now, in the order they asked.
serve(State) -> serve(State#state.waiting, State#state{waiting = []}).

serve([], State) -> State;
serve([{_, From, exit} | Rest], #state{exit = Code} = State) when Code =/= undefined ->
    gen_server:reply(From, {ok, Code}),
    serve(Rest, State);
serve([{_, From, {line, Regex}} = Waiting | Rest], State) ->
    Behind = lists:dropwhile(fun(Line) -> re:run(Line, Regex, [{capture, none}]) =:= nomatch end,
                             State#state.unread),
    case {Behind, State#state.exit} of
        {[Line | Unread], _} ->
            gen_server:reply(From, {ok, Line}),
            serve(Rest, State#state{unread = Unread});
        {[], undefined} ->
            serve(Rest, State#state{waiting = State#state.waiting ++ [Waiting]});
        {[], _} ->
            gen_server:reply(From, {error, {exited, lists:reverse(State#state.lines)}}),
            serve(Rest, State)
    end;
serve([Waiting | Rest], State) ->
    serve(Rest, State#state{waiting = State#state.waiting ++ [Waiting]}).

%% ---------------------------------------------------------------- the connection

connect() ->
    case {os:getenv("REDGRID_LAUNCHER"), os:getenv("REDGRID_SECRET")} of
        {false, _} -> error("no launcher: run the suites with `make test-erl`");
        {Address, Secret} ->
            [Host, Port] = string:split(Address, ":"),
            {ok, Socket} = gen_tcp:connect(Host, list_to_integer(Port), [binary, {packet, 4}, {active, false}], 5000),
            {Socket, list_to_binary(Secret)}
    end.

ask(Socket, Term) -> gen_tcp:send(Socket, term_to_binary(Term)).

answer(Socket) ->
    {ok, Frame} = gen_tcp:recv(Socket, 0, 10000),
    binary_to_term(Frame).
