%% @doc One pipelined connection to Redis: commands, or a subscription.
%%
%% The process connects by itself, sends `AUTH' and `SELECT' as the URL says, and then tells its owner about everything
%% in messages, so that the owner never waits for Redis:
%%
%% ```
%% {redgrid_redis, Pid, up}                          connected; what was sent earlier is on its way
%% {redgrid_redis, Pid, {reply, Tag, Replies}}       one reply per command of send(Pid, Tag, Commands)
%% {redgrid_redis, Pid, {subscribed, Channel}}
%% {redgrid_redis, Pid, {message, Channel, Data}}
%% {'EXIT', Pid, {shutdown, Reason}}                 the end, also of an attempt to connect
%% '''
%%
%% The owner is linked and should trap exits. When to try again is its decision. After the end no reply comes any more:
%% whether Redis has done what was open is not known.
%%
%% Bounds: 10,000 commands in flight (then `{error, overloaded}' at once), 32 MiB of unread reply, 5 s for Redis to
%% answer, and a subscription reads no further while its owner has 5,000 messages waiting.
-module(redgrid_redis).
-behaviour(gen_server).

-export([parse_url/1, where/1, start_link/2, stop/1]).
-export([send/3, subscribe/2, cmd/2, cmd/3, pipeline/2, pipeline/3]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).
-export_type([address/0]).

-type address() :: #{host := string(), port := inet:port_number(), db := non_neg_integer(),
                     user := string(), password := fun(() -> string())}.
%% Where a Redis is. The password is kept in a fun, so that no crash report or log line shows it.

-define(CONNECT_TIMEOUT, 5000).
-define(REPLY_TIMEOUT, 5000).
-define(KEEPALIVE, 10000).
-define(MAX_IN_FLIGHT, 10000).
-define(MAX_BUFFER, 16#2000000).
-define(MAX_OWNER_QUEUE, 5000).

-record(state, {owner :: pid(),
                address :: address(),
                socket :: gen_tcp:socket() | undefined,
                buffer = <<>> :: binary(),
                %% Chunks received after `buffer', newest first, not worth parsing before `need' bytes are there.
                chunks = [] :: [binary()],
                size = 0 :: non_neg_integer(),
                need = 0 :: non_neg_integer(),
                %% Who waits for the next replies, oldest first.
                waiting = queue:new() :: queue:queue(waiter()),
                in_flight = 0 :: non_neg_integer(),
                subscriber = false :: boolean(),
                watch :: reference() | undefined}).

-record(waiter, {for :: {owner, term()} | {call, gen_server:from()} | setup,
                 left :: pos_integer(),
                 replies = [] :: [redgrid_resp:reply()]}).
-type waiter() :: #waiter{}.

%% @doc Reads `redis://[user[:password]@]host[:port][/db]'. The error never contains the URL: it may hold a password.
-spec parse_url(unicode:chardata()) -> {ok, address()} | {error, string()}.
parse_url(Url) ->
    case uri_string:parse(Url) of
        #{scheme := Scheme, host := Host} = Uri ->
            case {text(Scheme), text(Host)} of
                {"redis", [_ | _] = Name} -> parse_parts(Name, Uri);
                {"redis", []} -> {error, "it names no host: redis://host:port/ is wanted"};
                _ -> {error, "only redis:// is understood here"}
            end;
        #{} -> {error, "it is no URL: redis://host:port/ is wanted"};
        {error, _, _} -> {error, "it is no URL: redis://host:port/ is wanted"}
    end.

parse_parts(Host, Uri) ->
    {User, Password} = user_info(text(maps:get(userinfo, Uri, ""))),
    Port = case maps:get(port, Uri, undefined) of undefined -> 6379; Given -> Given end,
    case string:trim(text(maps:get(path, Uri, "")), both, "/") of
        _ when Port < 1; Port > 65535 -> {error, "its port is not within 1 to 65535"};
        Db ->
            case string:to_integer(case Db of "" -> "0"; _ -> Db end) of
                {Number, ""} when is_integer(Number), Number >= 0 ->
                    {ok, #{host => string:trim(Host, both, "[]"), port => Port, db => Number, user => User,
                           password => fun() -> Password end}};
                _ -> {error, "its path is not the number of a database"}
            end
    end.

user_info(Info) ->
    case string:split(Info, ":") of
        [User, Password] -> {decoded(User), decoded(Password)};
        %% Old clients write a lone password before the @; Redis names that user "default".
        [Password] -> {"", decoded(Password)}
    end.

decoded(Text) ->
    case uri_string:percent_decode(Text) of
        Decoded when is_list(Decoded) -> Decoded;
        _ -> Text
    end.

text(Data) ->
    case unicode:characters_to_list(Data) of
        Text when is_list(Text) -> Text;
        _ -> ""
    end.

%% @doc `host:port', for log lines.
-spec where(address()) -> string().
where(#{host := Host, port := Port}) ->
    Host ++ ":" ++ integer_to_list(Port).

%% @doc Starts a connection for `Owner', which gets the messages. It connects after this has returned.
-spec start_link(address(), pid()) -> {ok, pid()} | {error, term()}.
start_link(Address, Owner) ->
    case gen_server:start_link(?MODULE, {Address, Owner}, []) of
        {ok, Pid} -> {ok, Pid};
        {error, Reason} -> {error, Reason};
        ignore -> {error, ignore}
    end.

%% @doc Ends the connection without waiting for it.
-spec stop(pid()) -> ok.
stop(Pid) ->
    gen_server:cast(Pid, stop).

%% @doc Sends commands in one write. Their replies come to the owner as one message with `Tag', in the order of all
%% `send' calls.
-spec send(pid(), term(), [redgrid_resp:command(), ...]) -> ok.
send(Pid, Tag, Commands) ->
    gen_server:cast(Pid, {send, Tag, Commands}).

%% @doc Subscribes to channels. From then on the connection carries no commands.
-spec subscribe(pid(), [iodata(), ...]) -> ok.
subscribe(Pid, Channels) ->
    gen_server:cast(Pid, {subscribe, Channels}).

%% @equiv cmd(Pid, Command, 5000)
-spec cmd(pid(), redgrid_resp:command()) -> redgrid_resp:reply() | {error, closed | timeout | overloaded}.
cmd(Pid, Command) ->
    cmd(Pid, Command, ?REPLY_TIMEOUT).

%% @doc One command, waiting for its reply.
-spec cmd(pid(), redgrid_resp:command(), timeout()) ->
          redgrid_resp:reply() | {error, closed | timeout | overloaded}.
cmd(Pid, Command, Timeout) ->
    case pipeline(Pid, [Command], Timeout) of
        [Reply] -> Reply;
        {error, Reason} -> {error, Reason}
    end.

%% @equiv pipeline(Pid, Commands, 5000)
-spec pipeline(pid(), [redgrid_resp:command(), ...]) ->
          [redgrid_resp:reply()] | {error, closed | timeout | overloaded}.
pipeline(Pid, Commands) ->
    pipeline(Pid, Commands, ?REPLY_TIMEOUT).

%% @doc Several commands in one write, waiting for all replies.
-spec pipeline(pid(), [redgrid_resp:command(), ...], timeout()) ->
          [redgrid_resp:reply()] | {error, closed | timeout | overloaded}.
pipeline(Pid, Commands, Timeout) ->
    try
        gen_server:call(Pid, {pipeline, Commands}, Timeout)
    catch
        exit:{timeout, _} -> {error, timeout};
        exit:_ -> {error, closed}
    end.

%% @private
-spec init({address(), pid()}) -> {ok, #state{}, {continue, connect}}.
init({Address, Owner}) ->
    {ok, #state{owner = Owner, address = Address}, {continue, connect}}.

%% @private
-spec handle_continue(connect, #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_continue(connect, #state{address = #{host := Host, port := Port}} = State) ->
    Options = [binary, {active, once}, {packet, raw}, {nodelay, true}, {keepalive, true}, {buffer, 65536},
               {send_timeout, ?REPLY_TIMEOUT}, {send_timeout_close, true}],
    case connect(Host, Port, Options) of
        {ok, Socket} ->
            case setup(State#state.address) of
                [] ->
                    tell(State, up),
                    {noreply, State#state{socket = Socket}};
                Commands ->
                    write(Commands, setup, State#state{socket = Socket})
            end;
        {error, Reason} ->
            {stop, {shutdown, {connect, Reason}}, State}
    end.

%% A name may have addresses of both families: IPv4 is tried first, as Redis listens there by default.
connect(Host, Port, Options) ->
    case gen_tcp:connect(Host, Port, Options, ?CONNECT_TIMEOUT) of
        {ok, Socket} -> {ok, Socket};
        {error, Reason} ->
            case gen_tcp:connect(Host, Port, [inet6 | Options], ?CONNECT_TIMEOUT) of
                {ok, Socket} -> {ok, Socket};
                {error, _} -> {error, Reason}
            end
    end.

setup(#{user := User, password := Password, db := Db}) ->
    Auth = case {User, Password()} of
               {_, ""} -> [];
               {"", Secret} -> [["AUTH", utf8(Secret)]];
               {_, Secret} -> [["AUTH", utf8(User), utf8(Secret)]]
           end,
    Auth ++ [["SELECT", Db] || Db > 0].

utf8(Text) ->
    case unicode:characters_to_binary(Text) of
        Binary when is_binary(Binary) -> Binary;
        _ -> <<>>
    end.

%% @private
-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}} | {stop, term(), #state{}}.
handle_call({pipeline, _}, _From, #state{subscriber = true} = State) ->
    {reply, {error, closed}, State};
handle_call({pipeline, Commands}, From, State) ->
    case State#state.in_flight + length(Commands) > ?MAX_IN_FLIGHT of
        true -> {reply, {error, overloaded}, State};
        false -> write(Commands, {call, From}, State)
    end;
handle_call(_Request, _From, State) ->
    {reply, unknown_message, State}.

%% @private
-spec handle_cast(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_cast({send, Tag, Commands}, State) ->
    case State#state.in_flight + length(Commands) > ?MAX_IN_FLIGHT of
        true ->
            tell(State, {reply, Tag, [{error, <<"overloaded">>} || _ <- Commands]}),
            {noreply, State};
        false ->
            write(Commands, {owner, Tag}, State)
    end;
handle_cast({subscribe, Channels}, State) ->
    _ = erlang:send_after(?KEEPALIVE, self(), keepalive),
    transmit(redgrid_resp:encode(["SUBSCRIBE" | Channels]), State#state{subscriber = true});
handle_cast(stop, State) ->
    {stop, {shutdown, stopped}, State};
handle_cast(_Message, State) ->
    {noreply, State}.

%% @private
-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({tcp, Socket, Data}, #state{socket = Socket} = State) ->
    Size = State#state.size + byte_size(Data),
    received(State#state{chunks = [Data | State#state.chunks], size = Size});
handle_info({tcp_closed, Socket}, #state{socket = Socket} = State) ->
    {stop, {shutdown, closed}, State};
handle_info({tcp_error, Socket, Reason}, #state{socket = Socket} = State) ->
    {stop, {shutdown, {connection, Reason}}, State};
handle_info({timeout, Watch, silent}, #state{watch = Watch} = State) ->
    {stop, {shutdown, no_answer}, State};
handle_info(keepalive, State) ->
    _ = erlang:send_after(?KEEPALIVE, self(), keepalive),
    transmit(redgrid_resp:encode(["PING"]), State);
handle_info(read_on, State) ->
    read_on(State);
handle_info(_Message, State) ->
    {noreply, State}.

write(Commands, For, State) ->
    Count = length(Commands),
    Waiting = queue:in(#waiter{for = For, left = Count}, State#state.waiting),
    transmit([redgrid_resp:encode(Command) || Command <- Commands],
             State#state{waiting = Waiting, in_flight = State#state.in_flight + Count}).

transmit(Data, State) ->
    case gen_tcp:send(State#state.socket, Data) of
        ok -> {noreply, watch(State)};
        {error, Reason} -> {stop, {shutdown, {connection, Reason}}, State}
    end.

%% One timer for the silence of Redis while something is open; every byte from it starts the time anew.
watch(#state{watch = undefined} = State) ->
    State#state{watch = erlang:start_timer(?REPLY_TIMEOUT, self(), silent)};
watch(State) ->
    State.

rewatch(#state{watch = undefined} = State) ->
    State;
rewatch(State) ->
    _ = erlang:cancel_timer(State#state.watch),
    case State#state.in_flight of
        0 -> State#state{watch = undefined};
        _ -> watch(State#state{watch = undefined})
    end.

received(#state{size = Size} = State) when Size > ?MAX_BUFFER ->
    {stop, {shutdown, reply_too_large}, State};
received(#state{size = Size, need = Need} = State) when Size < Need ->
    read_on(rewatch(State));
received(#state{buffer = Buffer, chunks = Chunks} = State) ->
    All = iolist_to_binary([Buffer | lists:reverse(Chunks)]),
    replies(State#state{buffer = All, chunks = [], need = 0}).

replies(#state{buffer = Buffer} = State) ->
    case redgrid_resp:parse(Buffer) of
        {ok, Reply, Rest} ->
            case reply(Reply, State#state{buffer = Rest}) of
                {ok, Next} -> replies(Next);
                {stop, Reason} -> {stop, {shutdown, Reason}, State}
            end;
        {more, Need} ->
            read_on(rewatch(State#state{size = byte_size(Buffer), need = Need}));
        {error, Reason} ->
            {stop, {shutdown, {not_redis, Reason}}, State}
    end.

reply(Reply, #state{waiting = Waiting} = State) ->
    case queue:out(Waiting) of
        {{value, #waiter{for = setup}}, _} when element(1, Reply) =:= error ->
            {stop, {refused, element(2, Reply)}};
        {{value, #waiter{left = Left, replies = Replies} = Waiter}, Rest} ->
            Next = State#state{in_flight = State#state.in_flight - 1},
            case Left of
                1 ->
                    answer(Waiter#waiter.for, lists:reverse(Replies, [Reply]), Next),
                    {ok, Next#state{waiting = Rest}};
                _ ->
                    Open = Waiter#waiter{left = Left - 1, replies = [Reply | Replies]},
                    {ok, Next#state{waiting = queue:in_r(Open, Rest)}}
            end;
        {empty, _} when State#state.subscriber ->
            pushed(Reply, State);
        {empty, _} ->
            {stop, {not_redis, unasked_reply}}
    end.

answer({owner, Tag}, Replies, State) -> tell(State, {reply, Tag, Replies});
answer({call, From}, Replies, _State) -> gen_server:reply(From, Replies);
answer(setup, _Replies, State) -> tell(State, up).

pushed([<<"message">>, Channel, Data], State) when is_binary(Data) ->
    tell(State, {message, Channel, Data}),
    {ok, State};
pushed([<<"subscribe">>, Channel, _Count], State) ->
    tell(State, {subscribed, Channel}),
    {ok, State};
pushed({error, Text}, _State) ->
    {stop, {refused, Text}};
pushed(_Other, State) ->
    {ok, State}.

%% A subscription is the one thing that could flood its owner: it stops reading for a while, and in the end Redis cuts
%% the connection of a reader that is too slow.
read_on(#state{owner = Owner, subscriber = true} = State) ->
    case process_info(Owner, message_queue_len) of
        {message_queue_len, Length} when Length > ?MAX_OWNER_QUEUE ->
            _ = erlang:send_after(100, self(), read_on),
            {noreply, State};
        _ ->
            activate(State)
    end;
read_on(State) ->
    activate(State).

activate(State) ->
    case inet:setopts(State#state.socket, [{active, once}]) of
        ok -> {noreply, State};
        {error, Reason} -> {stop, {shutdown, {connection, Reason}}, State}
    end.

tell(#state{owner = Owner}, What) ->
    Owner ! {redgrid_redis, self(), What},
    ok.
