%% What a mesh under test is made of, beside redgrid itself: a private Redis, other real Erlang
%% nodes, and waiting for something to become true.
-module(grid).

-export([redis/0, redis/1, cmd/2, subscribe/2, free_port/0]).
-export([peer/1, peer/2, nameless/1, call/4, on/2]).
-export([stop/1, running/0, stop_since/1, until/2, eventually/2, cases/1, measured/2, told/2]).
-export_type([redis/0, peer/0]).

-type redis() :: #{port := inet:port_number(), url := string(), handle := launch:handle(), password := undefined | string()}.
-type peer() :: #{node := node(), peer := pid()}.
-type reply() :: ok | binary() | integer() | nil | [reply()] | {error, binary()}.

%% ---------------------------------------------------------------- Redis

-spec redis() -> redis().
redis() -> redis(#{}).

%% A redis-server of our own, that answers PING when this returns and keeps nothing on disk.
%% Options: port (default: a free one), password, args (further arguments for redis-server).
-spec redis(#{port => inet:port_number(), password => string(), args => [string()]}) -> redis().
redis(Opts) -> redis(Opts, 5).

redis(Opts, Tries) ->
    Port = maps:get(port, Opts, free_port()),
    Password = maps:get(password, Opts, undefined),
    {ok, Handle} = launch:start(redis, ["--port", integer_to_list(Port), "--bind", "127.0.0.1",
                                        "--save", "", "--appendonly", "no"]
                                ++ lists:append([["--requirepass", Password] || Password =/= undefined])
                                ++ maps:get(args, Opts, [])),
    Redis = #{port => Port, handle => Handle, password => Password,
              url => "redis://" ++ lists:append([":" ++ Password ++ "@" || Password =/= undefined])
                     ++ "127.0.0.1:" ++ integer_to_list(Port) ++ "/"},
    case launch:wait_line(Handle, "Ready to accept connections", 10000) of
        {ok, _} ->
            until(fun() -> cmd(Redis, ["PING"]) =:= <<"PONG">> end, 5000),
            Redis;
        {error, {exited, _}} when Tries > 1, not is_map_key(port, Opts) ->
            %% Somebody else took the port between our choice and redis-server's.
            redis(Opts, Tries - 1);
        {error, Why} ->
            error({redis_does_not_start, Why})
    end.

%% One command on a connection of its own: this is for looking, not for speed.
-spec cmd(redis(), [unicode:chardata() | integer()]) -> reply().
cmd(#{port := Port, password := Password}, Args) ->
    {ok, Socket} = gen_tcp:connect("127.0.0.1", Port, [binary, {active, false}, {packet, line},
                                                       {recbuf, 1048576}, {buffer, 1048576}], 5000),
    try
        _ = [ok = roundtrip(Socket, ["AUTH", Password]) || Password =/= undefined],
        roundtrip(Socket, Args)
    after
        gen_tcp:close(Socket)
    end.

roundtrip(Socket, Args) ->
    Texts = [text(Arg) || Arg <- Args],
    ok = gen_tcp:send(Socket, [$*, integer_to_list(length(Texts)), "\r\n"
                               | [[$$, integer_to_list(byte_size(T)), "\r\n", T, "\r\n"] || T <- Texts]]),
    reply(Socket).

text(Arg) when is_integer(Arg) -> integer_to_binary(Arg);
text(Arg) when is_binary(Arg) -> Arg;
text(Arg) -> unicode:characters_to_binary(Arg).

reply(Socket) -> reply(Socket, 5000).

reply(Socket, Timeout) ->
    {ok, Line} = gen_tcp:recv(Socket, 0, Timeout),
    Rest = binary:part(Line, 1, byte_size(Line) - 3),
    case binary:first(Line) of
        $+ when Rest =:= <<"OK">> -> ok;
        $+ -> Rest;
        $- -> {error, Rest};
        $: -> binary_to_integer(Rest);
        $$ -> bulk(Socket, binary_to_integer(Rest));
        $* when Rest =:= <<"-1">> -> nil;
        $* -> [reply(Socket) || _ <- lists:seq(1, binary_to_integer(Rest))]
    end.

bulk(_, -1) -> nil;
bulk(Socket, Size) ->
    ok = inet:setopts(Socket, [{packet, raw}]),
    {ok, <<Bulk:Size/binary, "\r\n">>} = gen_tcp:recv(Socket, Size + 2, 5000),
    ok = inet:setopts(Socket, [{packet, line}]),
    Bulk.

%% Everything that is published on these channels comes to the caller as `{published, Channel, Message}`, from when this
%% returns until the caller ends.
-spec subscribe(redis(), [iodata()]) -> ok.
subscribe(#{port := Port}, Channels) ->
    To = self(),
    Ready = make_ref(),
    {Subscriber, Ref} =
        spawn_monitor(fun() ->
                              {ok, Socket} = gen_tcp:connect("127.0.0.1", Port,
                                                             [binary, {active, false}, {packet, line}], 5000),
                              _ = [[<<"subscribe">>, _, _] = roundtrip(Socket, ["SUBSCRIBE", C]) || C <- Channels],
                              To ! Ready,
                              published(Socket, To)
                      end),
    receive
        Ready -> true = demonitor(Ref, [flush])
    after 5000 ->
        error(not_subscribed)
    end,
    _ = spawn(fun() ->
                      End = monitor(process, To),
                      receive {'DOWN', End, process, _, _} -> exit(Subscriber, kill) end
              end),
    ok.

published(Socket, To) ->
    [<<"message">>, Channel, Message] = reply(Socket, infinity),
    To ! {published, Channel, Message},
    published(Socket, To).

-spec free_port() -> inet:port_number().
free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

%% ---------------------------------------------------------------- Erlang nodes

-spec peer(atom()) -> peer().
peer(Name) -> peer(Name, #{}).

%% Another real erl, `Name@127.0.0.1` on this run's epmd, with this run's cookie and, when
%% REDGRID_EBIN says where it is, the Erlang library in its code path.
%%
%% We talk with it over its stdin and stdout, so that it is not connected to the node of the
%% suite: its nodes() holds what the test put there and nothing else.
%%
%% Options: cookie, args (further arguments for erl), env, hidden.
-spec peer(atom(), #{cookie => atom(), args => [string()], env => [{string(), string()}], hidden => boolean()}) -> peer().
peer(Name, Opts) ->
    Args = common_args(maps:get(cookie, Opts, erlang:get_cookie()))
        ++ ["-hidden" || maps:get(hidden, Opts, false)]
        ++ maps:get(args, Opts, []),
    {ok, Peer, Node} = peer:start(#{name => Name, host => "127.0.0.1", longnames => true,
                                    connection => standard_io, args => Args,
                                    env => maps:get(env, Opts, []), wait_boot => 30000}),
    #{peer => Peer, node => Node}.

%% One that gets its name from the first node it connects to; the argument is that of its -name or -sname.
-spec nameless([string()]) -> #{peer := pid()}.
nameless(Name) ->
    Started = peer:start(#{connection => standard_io, wait_boot => 30000, args => Name ++ common_args(erlang:get_cookie())}),
    #{peer => element(2, Started)}.

common_args(Cookie) ->
    ["-setcookie", atom_to_list(Cookie), "-pa", filename:dirname(code:which(?MODULE))]
        ++ case os:getenv("REDGRID_EBIN") of
               false -> [];
               Ebin -> ["-pa", Ebin]
           end.

%% Runs a function on that node; it fails here as it failed there.
-spec call(#{peer := pid(), _ => _}, module(), atom(), [term()]) -> term().
call(#{peer := Peer}, Module, Function, Args) ->
    peer:call(Peer, Module, Function, Args, 30000).

%% The same for a fun, which may receive: it runs in a process of its own there.
-spec on(#{peer := pid(), _ => _}, fun(() -> Result)) -> Result.
on(#{peer := Peer}, Fun) -> peer:call(Peer, erlang, apply, [Fun, []], 60000).

%% ---------------------------------------------------------------- both

-spec stop(redis() | peer()) -> ok.
stop(#{handle := Handle}) -> launch:stop(Handle);
stop(#{peer := Peer}) ->
    try peer:stop(Peer)
    catch exit:_ -> ok % it is gone already
    end.

%% What runs for the suites at this moment: programs and peers, whoever started them.
-spec running() -> [pid()].
running() ->
    [Pid || Pid <- processes(), lists:member(proc_lib:translate_initial_call(Pid), [{launch, init, 1}, {peer, init, 1}])].

%% Stops all that was started since. A suite calls this when a case has ended, however it ended.
-spec stop_since([pid()]) -> ok.
stop_since(Before) ->
    Stop = fun(Pid) ->
                   case proc_lib:translate_initial_call(Pid) of
                       {launch, init, 1} -> stop(#{handle => Pid});
                       {peer, init, 1} -> stop(#{peer => Pid});
                       _ -> ok % it has ended by now
                   end
           end,
    %% All at once: a node may take a while to leave.
    Stopping = [element(2, spawn_monitor(fun() -> Stop(Pid) end)) || Pid <- running() -- Before],
    lists:foreach(fun(Ref) -> receive {'DOWN', Ref, process, _, _} -> ok end end, Stopping).

%% The cases of a suite: every exported function with one argument but the usual ones.
-spec cases(module()) -> [atom()].
cases(Suite) ->
    [F || {F, 1} <- Suite:module_info(exports), not lists:member(F, [module_info, init_per_suite, end_per_suite])].

%% Tells how long something took; ct_main says why standard_error.
-spec measured(iodata(), number()) -> ok.
measured(What, Ms) -> io:format(standard_error, "ct:           ~ts: ~b ms~n", [What, round(Ms)]).

%% Tells a number that is no time.
-spec told(iodata(), integer()) -> ok.
told(What, Number) -> io:format(standard_error, "ct:           ~ts: ~b~n", [What, Number]).

%% Polls until Fun gives true; after Timeout ms it fails, showing what Fun gave last.
-spec until(fun(() -> term()), non_neg_integer()) -> ok.
until(Fun, Timeout) -> until(Fun, Timeout, erlang:monotonic_time(millisecond) + Timeout).

until(Fun, Timeout, Deadline) ->
    Last = try Fun() catch Class:Why -> {Class, Why} end,
    case Last =:= true orelse erlang:monotonic_time(millisecond) >= Deadline of
        true when Last =:= true -> ok;
        true -> error({not_true_within_ms, Timeout, Last});
        false ->
            receive after 20 -> until(Fun, Timeout, Deadline) end
    end.

%% Polls until Fun gives what is expected and shows both when it does not.
-spec eventually(Expected, fun(() -> Expected | term())) -> ok.
eventually(Expected, Fun) ->
    until(fun() ->
                  case Fun() of
                      Expected -> true;
                      Other -> {expected, Expected, got, Other}
                  end
          end, 15000).
