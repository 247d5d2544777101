%% A node made by hand: the distribution handshake and frames over gen_tcp, so that bytes can be sent which no
%% Erlang node sends. The protocol is told in the chapter "Distribution Protocol" of the ERTS manual.
%%
%%     {ok, Wire} = wire:connect(Port, 'raw@127.0.0.1', erlang:get_cookie()),
%%     wire:frame(Wire, {6, wire:pid(Wire), '', net_kernel}, Message),
%%     {Control, Message} = wire:receive_frame(Wire, 5000).
-module(wire).

-export([dial/1, connect/3, connect/4, close/1, closed/2, pid/1, alive/1]).
-export([send/2, frame/2, frame/3, raw_frame/3, receive_frame/2]).
-export_type([wire/0]).

-type wire() :: #{socket := gen_tcp:socket(), node := node(), creation := pos_integer()}.

%% All that OTP 27 offers but fragments and the atom cache, and published.
-define(FLAGS, 16#D075F5FBD).

%% A connection to a port and nothing more.
-spec dial(inet:port_number()) -> gen_tcp:socket().
dial(Port) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {nodelay, true}], 5000),
    Socket.

-spec connect(inet:port_number(), node(), atom()) -> {ok, wire()} | {error, term()}.
connect(Port, Node, Cookie) -> connect(Port, Node, Cookie, ?FLAGS).

%% The whole handshake as the one who dials. The error says what came instead of what should have.
-spec connect(inet:port_number(), node(), atom(), non_neg_integer()) -> {ok, wire()} | {error, term()}.
connect(Port, Node, Cookie, Flags) ->
    Socket = dial(Port),
    ok = inet:setopts(Socket, [{packet, 2}]),
    Name = atom_to_binary(Node),
    Creation = rand:uniform(16#FFFFFFF) + 4,
    ok = gen_tcp:send(Socket, <<$N, Flags:64, Creation:32, (byte_size(Name)):16, Name/binary>>),
    maybe_connected(Socket, Node, Creation, Cookie, gen_tcp:recv(Socket, 0, 5000)).

maybe_connected(Socket, Node, Creation, Cookie, {ok, <<"salive">>}) ->
    ok = gen_tcp:send(Socket, <<"strue">>),
    maybe_connected(Socket, Node, Creation, Cookie, {ok, <<"sok">>});
maybe_connected(Socket, Node, Creation, Cookie, {ok, <<"sok", _/binary>>}) ->
    {ok, <<$N, _:64, Challenge:32, _:32, Length:16, _:Length/binary>>} = gen_tcp:recv(Socket, 0, 5000),
    Ours = rand:uniform(16#FFFFFFF),
    ok = gen_tcp:send(Socket, <<$r, Ours:32, (digest(Cookie, Challenge))/binary>>),
    Expected = digest(Cookie, Ours),
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, <<$a, Expected/binary>>} ->
            ok = inet:setopts(Socket, [{packet, 4}]),
            {ok, #{socket => Socket, node => Node, creation => Creation}};
        Other ->
            gen_tcp:close(Socket),
            {error, Other}
    end;
maybe_connected(Socket, _, _, _, Other) ->
    gen_tcp:close(Socket),
    {error, Other}.

digest(Cookie, Challenge) ->
    erlang:md5([atom_to_list(Cookie), integer_to_list(Challenge)]).

%% A process of this node, which no one else can make.
-spec pid(wire()) -> pid().
pid(#{node := Node, creation := Creation}) ->
    Name = atom_to_binary(Node),
    binary_to_term(<<131, 88, 119, (byte_size(Name)), Name/binary, 7:32, 0:32, Creation:32>>).

-spec send(wire(), iodata()) -> ok | {error, term()}.
send(#{socket := Socket}, Bytes) -> gen_tcp:send(Socket, Bytes).

-spec frame(wire(), term()) -> ok | {error, term()}.
frame(Wire, Control) -> send(Wire, [112, term_to_binary(Control)]).

-spec frame(wire(), term(), term()) -> ok | {error, term()}.
frame(Wire, Control, Message) -> send(Wire, [112, term_to_binary(Control), term_to_binary(Message)]).

%% A control message whose payload are these bytes, whatever they are.
-spec raw_frame(wire(), term(), iodata()) -> ok | {error, term()}.
raw_frame(Wire, Control, Payload) -> send(Wire, [112, term_to_binary(Control), Payload]).

%% The next frame that is no tick. Who has sent rubbish may get rubbish back, such as a reference that is none.
-spec receive_frame(wire(), timeout()) -> {term()} | {term(), term()} | {rubbish, binary()} | {error, term()}.
receive_frame(#{socket := Socket} = Wire, Timeout) ->
    case gen_tcp:recv(Socket, 0, Timeout) of
        {ok, <<>>} -> receive_frame(Wire, Timeout);
        {ok, <<112, Terms/binary>> = Frame} ->
            try
                {Control, Used} = binary_to_term(Terms, [used]),
                case Terms of
                    <<_:Used/binary>> -> {Control};
                    <<_:Used/binary, Payload/binary>> -> {Control, binary_to_term(Payload)}
                end
            catch
                error:badarg -> {rubbish, Frame}
            end;
        {ok, Other} -> {rubbish, Other};
        {error, Why} -> {error, Why}
    end.

%% Whether the other end still answers on this very connection, as `net_adm:ping` asks.
-spec alive(wire()) -> true | {error, term()}.
alive(#{node := Node} = Wire) ->
    Ref = make_ref(),
    frame(Wire, {6, pid(Wire), '', net_kernel}, {'$gen_call', {pid(Wire), Ref}, {is_auth, Node}}),
    answered(Wire, Ref).

answered(Wire, Ref) ->
    case receive_frame(Wire, 5000) of
        {error, Why} -> {error, Why};
        {_, {Ref, yes}} -> true;
        _ -> answered(Wire, Ref)
    end.

%% Whether the other end closes the connection in time, whatever it says before.
-spec closed(wire() | gen_tcp:socket(), non_neg_integer()) -> boolean().
closed(#{socket := Socket}, Timeout) -> closed(Socket, Timeout);
closed(Socket, Timeout) -> closed_by(Socket, erlang:monotonic_time(millisecond) + Timeout).

closed_by(Socket, Deadline) ->
    case gen_tcp:recv(Socket, 0, max(0, Deadline - erlang:monotonic_time(millisecond))) of
        {ok, _} -> closed_by(Socket, Deadline);
        {error, timeout} -> false;
        {error, _} -> true
    end.

-spec close(wire()) -> ok.
close(#{socket := Socket}) -> gen_tcp:close(Socket).
