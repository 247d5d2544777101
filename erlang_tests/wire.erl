%% A node made by hand: the distribution handshake and frames over gen_tcp, so that bytes can be sent which no
%% Erlang node sends. The protocol is told in the chapter "Distribution Protocol" of the ERTS manual.
%%
%%     {ok, Wire} = wire:connect(Port, 'raw@127.0.0.1', erlang:get_cookie(), wire:flags([cache, fragments])),
%%     wire:frame(Wire, {6, wire:pid(Wire), '', net_kernel}, Message),
%%     {Control, Message} = wire:receive_frame(Wire, 5000).
%%
%% What is sent has no entry of the atom cache and is one frame, unless the test makes it otherwise:
%%
%%     wire:send(Wire, wire:whole([{new, 7, echo}], {6, wire:pid(Wire), '', echo}, Message)),
%%     wire:send(Wire, wire:first(Sequence, 2, [{old, 7}], ...)), wire:send(Wire, wire:next(Sequence, 1, Rest))
%%
%% What is received is opened whatever it is made of; receive_part/2 shows what each frame is made of. The slots that
%% the other side fills, and the fragments that came, are in a table that belongs to the process that connected.
-module(wire).

-export([dial/1, connect/3, connect/4, flags/1, listen/1, accept/3, close/1, closed/2, pid/1, pid/2, alive/1]).
-export([narrow/1, send/2, frame/2, frame/3, raw_frame/3, receive_frame/2, receive_part/2]).
-export([whole/3, whole/4, first/5, first/6, next/3, header/1, cached/2]).
-export_type([wire/0, entry/0]).

-type wire() :: #{socket := gen_tcp:socket(), node := node(), creation := pos_integer(),
                  agreed := [cache | fragments | altact], table := ets:table()}.

%% An entry of a header as it is to be sent. The name may be any bytes.
-type entry() :: {new, 0..2047, atom() | binary()} | {old, 0..2047}.

%% A frame: the names of its header with their slots, and what follows. `payload` are bytes without a version.
-type part() :: #{kind := pass_through | whole | first | next, entries => [{new | old, 0..2047, binary()}],
                  sequence => non_neg_integer(), number => pos_integer(), control => term(), payload := binary()}.

%% All that OTP 27 offers but fragments and the atom cache, and published.
-define(FLAGS, 16#D075F5FBD).

-define(OPTIONS, [{cache, 16#2000}, {fragments, 16#800000}, {altact, 1 bsl 37}]).

%% Fragments and the atom cache in the frames, operation 37 for messages to an alias.
-spec flags([cache | fragments | altact]) -> non_neg_integer().
flags(Options) -> lists:foldl(fun(Option, Flags) -> Flags bor proplists:get_value(Option, ?OPTIONS) end, ?FLAGS, Options).

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
    Creation = creation(),
    ok = gen_tcp:send(Socket, <<$N, Flags:64, Creation:32, (byte_size(Name)):16, Name/binary>>),
    maybe_connected(Socket, wire(Socket, Node, Creation), Flags, Cookie, gen_tcp:recv(Socket, 0, 5000)).

maybe_connected(Socket, Wire, Flags, Cookie, {ok, <<"salive">>}) ->
    ok = gen_tcp:send(Socket, <<"strue">>),
    maybe_connected(Socket, Wire, Flags, Cookie, {ok, <<"sok">>});
maybe_connected(Socket, Wire, Flags, Cookie, {ok, <<"sok", _/binary>>}) ->
    {ok, <<$N, Theirs:64, Challenge:32, _:32, Length:16, _:Length/binary>>} = gen_tcp:recv(Socket, 0, 5000),
    Ours = rand:uniform(16#FFFFFFF),
    ok = gen_tcp:send(Socket, <<$r, Ours:32, (digest(Cookie, Challenge))/binary>>),
    Expected = digest(Cookie, Ours),
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, <<$a, Expected/binary>>} ->
            ok = inet:setopts(Socket, [{packet, 4}]),
            {ok, Wire#{agreed := agreed(Flags band Theirs)}};
        Other ->
            gen_tcp:close(Socket),
            {error, Other}
    end;
maybe_connected(Socket, _, _, _, Other) ->
    gen_tcp:close(Socket),
    {error, Other}.

%% A node that epmd knows, for others to dial. It is gone with the process that called.
-spec listen(node()) -> #{node := node(), port := inet:port_number(), atom() => term()}.
listen(Node) ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {nodelay, true}, {packet, 2}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listen),
    [Short, _] = binary:split(atom_to_binary(Node), <<"@">>),
    Request = <<120, Port:16, 77, 0, 6:16, 6:16, (byte_size(Short)):16, Short/binary, 0:16>>,
    {ok, Epmd} = gen_tcp:connect({127, 0, 0, 1}, list_to_integer(os:getenv("ERL_EPMD_PORT", "4369")),
                                 [binary, {active, false}], 5000),
    ok = gen_tcp:send(Epmd, [<<(byte_size(Request)):16>>, Request]),
    {ok, <<118, 0, _:32>>} = gen_tcp:recv(Epmd, 6, 5000),
    #{node => Node, port => Port, listen => Listen, epmd => Epmd}.

%% The whole handshake as the one who is dialled.
-spec accept(map(), atom(), non_neg_integer()) -> {ok, wire()} | {error, term()}.
accept(#{node := Node, listen := Listen}, Cookie, Flags) ->
    {ok, Socket} = gen_tcp:accept(Listen, 15000),
    {ok, <<$N, Theirs:64, _:32, Length:16, _:Length/binary>>} = gen_tcp:recv(Socket, 0, 5000),
    #{creation := Creation} = Wire = wire(Socket, Node, creation()),
    Name = atom_to_binary(Node),
    Ours = rand:uniform(16#FFFFFFF),
    ok = gen_tcp:send(Socket, <<"sok">>),
    ok = gen_tcp:send(Socket, <<$N, Flags:64, Ours:32, Creation:32, (byte_size(Name)):16, Name/binary>>),
    Expected = digest(Cookie, Ours),
    case gen_tcp:recv(Socket, 0, 5000) of
        {ok, <<$r, Challenge:32, Expected/binary>>} ->
            ok = gen_tcp:send(Socket, <<$a, (digest(Cookie, Challenge))/binary>>),
            ok = inet:setopts(Socket, [{packet, 4}]),
            {ok, Wire#{agreed := agreed(Flags band Theirs)}};
        Other ->
            gen_tcp:close(Socket),
            {error, Other}
    end.

wire(Socket, Node, Creation) ->
    #{socket => Socket, node => Node, creation => Creation, agreed => [], table => ets:new(wire, [public])}.

creation() -> rand:uniform(16#FFFFFFF) + 4.

agreed(Flags) -> [Option || {Option, Bit} <- ?OPTIONS, Flags band Bit =/= 0].

digest(Cookie, Challenge) ->
    erlang:md5([atom_to_list(Cookie), integer_to_list(Challenge)]).

%% A process of this node, which no one else can make.
-spec pid(wire()) -> pid().
pid(Wire) -> pid(Wire, 7).

-spec pid(wire(), non_neg_integer()) -> pid().
pid(#{node := Node, creation := Creation}, Id) ->
    Name = atom_to_binary(Node),
    binary_to_term(<<131, 88, 119, (byte_size(Name)), Name/binary, Id:32, 0:32, Creation:32>>).

%% Has the system keep little of what comes and is not read.
-spec narrow(wire()) -> ok.
narrow(#{socket := Socket}) -> inet:setopts(Socket, [{recbuf, 65536}]).

%% ---------------------------------------------------------------- to send

-spec send(wire(), iodata()) -> ok | {error, term()}.
send(#{socket := Socket}, Bytes) -> gen_tcp:send(Socket, Bytes).

-spec frame(wire(), term()) -> ok | {error, term()}.
frame(Wire, Control) ->
    case headers(Wire) of
        true -> raw_frame(Wire, Control, []);
        false -> send(Wire, [112, term_to_binary(Control)])
    end.

-spec frame(wire(), term(), term()) -> ok | {error, term()}.
frame(Wire, Control, Message) ->
    case headers(Wire) of
        true -> raw_frame(Wire, Control, cached(Message, []));
        false -> raw_frame(Wire, Control, term_to_binary(Message))
    end.

%% A control message whose payload are these bytes, whatever they are.
-spec raw_frame(wire(), term(), iodata()) -> ok | {error, term()}.
raw_frame(Wire, Control, Payload) ->
    case headers(Wire) of
        true -> send(Wire, whole([], Control, Payload));
        false -> send(Wire, [112, term_to_binary(Control), Payload])
    end.

headers(#{agreed := Agreed}) -> Agreed -- [altact] =/= [].

%% A frame with a header. The atoms that are new in it stand in the control message as entries, and those of old entries
%% that are named in Names: one name for each entry. The payload is bytes, for which cached/2 is good.
-spec whole([entry()], term(), iodata()) -> iodata().
whole(Entries, Control, Payload) -> whole(Entries, names(Entries), Control, Payload).

-spec whole([entry()], [atom() | binary()], term(), iodata()) -> iodata().
whole(Entries, Names, Control, Payload) -> [131, 68, header(Entries), cached(Control, Names), Payload].

%% The first of Count fragments.
-spec first(non_neg_integer(), non_neg_integer(), [entry()], term(), iodata()) -> iodata().
first(Sequence, Count, Entries, Control, Payload) -> first(Sequence, Count, Entries, names(Entries), Control, Payload).

-spec first(non_neg_integer(), non_neg_integer(), [entry()], [atom() | binary()], term(), iodata()) -> iodata().
first(Sequence, Count, Entries, Names, Control, Payload) ->
    [<<131, 69, Sequence:64, Count:64>>, header(Entries), cached(Control, Names), Payload].

%% A further one; the last has number 1.
-spec next(non_neg_integer(), non_neg_integer(), iodata()) -> iodata().
next(Sequence, Number, Payload) -> [<<131, 70, Sequence:64, Number:64>>, Payload].

names(Entries) -> [case Entry of {new, _, Name} -> Name; {old, _} -> <<>> end || Entry <- Entries].

-spec header([entry()]) -> iodata().
header([]) -> <<0>>;
header(Entries) ->
    Long = lists:any(fun({new, _, Name}) -> byte_size(name(Name)) > 255; ({old, _}) -> false end, Entries),
    Flags = [flag(Entry) || Entry <- Entries] ++ [case Long of true -> 1; false -> 0 end],
    [length(Entries), half_bytes(Flags), [reference(Entry, Long) || Entry <- Entries]].

flag({new, Slot, _}) -> 8 bor (Slot bsr 8);
flag({old, Slot}) -> Slot bsr 8.

half_bytes([]) -> [];
half_bytes([Low]) -> [Low];
half_bytes([Low, High | Rest]) -> [High bsl 4 bor Low | half_bytes(Rest)].

reference({old, Slot}, _) -> Slot band 255;
reference({new, Slot, Name}, false) -> [Slot band 255, byte_size(name(Name)), name(Name)];
reference({new, Slot, Name}, true) -> [Slot band 255, <<(byte_size(name(Name))):16>>, name(Name)].

name(Name) when is_atom(Name) -> atom_to_binary(Name);
name(Name) -> Name.

%% A term without its version; the atoms that are among Names are the entry of their place there.
-spec cached(term(), [atom() | binary()]) -> binary().
cached(Term, Names) ->
    Entries = maps:from_list(lists:zip([name(Name) || Name <- Names], lists:seq(0, length(Names) - 1))),
    <<131, Bytes/binary>> = term_to_binary(Term, [{minor_version, 2}]),
    {Written, <<>>} = rewrite(Bytes, fun(Name) ->
                                             case Entries of
                                                 #{Name := Entry} -> <<82, Entry>>;
                                                 #{} -> written_out(Name)
                                             end
                                     end),
    Written.

written_out(Name) when byte_size(Name) < 256 -> [<<119, (byte_size(Name))>>, Name];
written_out(Name) -> [<<118, (byte_size(Name)):16>>, Name].

%% ---------------------------------------------------------------- to receive

%% The next message. Who has sent rubbish may get rubbish back, such as a reference that is none.
-spec receive_frame(wire(), timeout()) -> {term()} | {term(), term()} | {rubbish, binary()} | {error, term()}.
receive_frame(#{table := Table} = Wire, Timeout) ->
    case receive_part(Wire, Timeout) of
        #{kind := next, sequence := Sequence, number := Number, payload := Payload} = Part ->
            case ets:lookup(Table, {sequence, Sequence}) of
                [{_, #{number := Before} = Begun, Payloads}] when Before =:= Number + 1 ->
                    joined(Wire, Begun#{number := Number}, [Payload | Payloads], Timeout);
                _ ->
                    {rubbish, term_to_binary(Part)}
            end;
        #{kind := first, payload := Payload} = Part -> joined(Wire, Part, [Payload], Timeout);
        #{payload := Payload} = Part -> message(Part, Payload);
        Other -> Other
    end.

joined(#{table := Table}, #{number := 1, sequence := Sequence} = Part, Payloads, _) ->
    ets:delete(Table, {sequence, Sequence}),
    message(Part, iolist_to_binary(lists:reverse(Payloads)));
joined(#{table := Table} = Wire, #{sequence := Sequence} = Part, Payloads, Timeout) ->
    ets:insert(Table, {{sequence, Sequence}, Part, Payloads}),
    receive_frame(Wire, Timeout).

message(#{control := Control}, <<>>) -> {Control};
message(#{control := Control} = Part, Payload) ->
    try {Control, plain(Payload, [Name || {_, _, Name} <- maps:get(entries, Part, [])])}
    catch error:_ -> {rubbish, Payload}
    end.

%% The next frame that is no tick.
-spec receive_part(wire(), timeout()) -> part() | {rubbish, binary()} | {error, term()}.
receive_part(#{socket := Socket} = Wire, Timeout) ->
    case gen_tcp:recv(Socket, 0, Timeout) of
        {ok, <<>>} -> receive_part(Wire, Timeout);
        {ok, Frame} ->
            try part(Wire, Frame)
            catch error:_ -> {rubbish, Frame}
            end;
        {error, Why} -> {error, Why}
    end.

part(#{agreed := Agreed} = Wire, Frame) ->
    Headers = headers(Wire),
    Fragments = lists:member(fragments, Agreed),
    case Frame of
        <<112, 131, Terms/binary>> when not Headers ->
            {Control, Rest} = plain_prefix(Terms, []),
            Payload = case Rest of <<131, Bytes/binary>> -> Bytes; <<>> -> <<>> end,
            #{kind => pass_through, control => Control, payload => Payload};
        <<131, 68, Rest/binary>> when Headers ->
            opened(Wire, #{kind => whole}, Rest);
        <<131, 69, Sequence:64, Number:64, Rest/binary>> when Fragments, Number > 0 ->
            opened(Wire, #{kind => first, sequence => Sequence, number => Number}, Rest);
        <<131, 70, Sequence:64, Number:64, Rest/binary>> when Fragments, Number > 0 ->
            #{kind => next, sequence => Sequence, number => Number, payload => Rest}
    end.

opened(#{agreed := Agreed, table := Table}, Part, Bytes) ->
    {Entries, Terms} = entries(Table, Bytes),
    true = Entries =:= [] orelse lists:member(cache, Agreed),
    {Control, Payload} = plain_prefix(Terms, [Name || {_, _, Name} <- Entries]),
    Part#{entries => Entries, control => Control, payload => Payload}.

%% Reads a header, and fills our slots.
entries(_, <<0, Rest/binary>>) -> {[], Rest};
entries(Table, <<Count, Rest/binary>>) ->
    Length = Count div 2 + 1,
    <<Bytes:Length/binary, References/binary>> = Rest,
    {Flags, [Last | _]} = lists:split(Count, lists:append([[Byte band 15, Byte bsr 4] || <<Byte>> <= Bytes])),
    Width = case Last of 0 -> 8; 1 -> 16 end,
    lists:mapfoldl(fun(Flag, <<Index, After/binary>>) ->
                           Slot = (Flag band 7) bsl 8 bor Index,
                           case Flag band 8 of
                               8 ->
                                   <<Size:Width, Name:Size/binary, Behind/binary>> = After,
                                   true = length(unicode:characters_to_list(Name)) < 256,
                                   ets:insert(Table, {{slot, Slot}, Name}),
                                   {{new, Slot, Name}, Behind};
                               0 ->
                                   {{old, Slot, ets:lookup_element(Table, {slot, Slot}, 2)}, After}
                           end
                   end, References, Flags).

plain(Bytes, Names) ->
    {Term, <<>>} = plain_prefix(Bytes, Names),
    Term.

%% The term at the beginning, and what is behind it.
plain_prefix(Bytes, Names) ->
    Table = list_to_tuple(Names),
    {Written, Rest} = rewrite(Bytes, fun({entry, Entry}) -> written_out(element(Entry + 1, Table));
                                        (Name) -> written_out(Name)
                                     end),
    {binary_to_term(<<131, Written/binary>>), Rest}.

%% ---------------------------------------------------------------- terms

%% A term with each of its atoms replaced by what the fun gives for its name, or for `{entry, Number}`; and the bytes
%% behind the term.
rewrite(Bytes, Atom) -> rewrite([1], Bytes, Atom, []).

%% What is to be read is a list: a number of terms, or of bytes that stand for themselves.
rewrite([], Rest, _, Done) ->
    {iolist_to_binary(lists:reverse(Done)), Rest};
rewrite([0 | Work], Rest, Atom, Done) ->
    rewrite(Work, Rest, Atom, Done);
rewrite([{bytes, Length} | Work], Bytes, Atom, Done) ->
    <<Part:Length/binary, Rest/binary>> = Bytes,
    rewrite(Work, Rest, Atom, [Part | Done]);
rewrite([Count | Work], Bytes, Atom, Done) ->
    More = [Count - 1 | Work],
    case Bytes of
        <<82, Entry, Rest/binary>> -> rewrite(More, Rest, Atom, [Atom({entry, Entry}) | Done]);
        <<119, Length, Name:Length/binary, Rest/binary>> -> rewrite(More, Rest, Atom, [Atom(Name) | Done]);
        <<118, Length:16, Name:Length/binary, Rest/binary>> -> rewrite(More, Rest, Atom, [Atom(Name) | Done]);
        %% As OTP 25 writes most atoms where it is not told otherwise, and as we hand them back.
        <<100, Length:16, Name:Length/binary, Rest/binary>> -> rewrite(More, Rest, Atom, [Atom(from_latin1(Name)) | Done]);
        <<115, Length, Name:Length/binary, Rest/binary>> -> rewrite(More, Rest, Atom, [Atom(from_latin1(Name)) | Done]);
        %% A fun says how long it is, so that changes with its atoms.
        <<112, _:32, Head:21/binary, Free:32, Rest/binary>> ->
            {Inside, Behind} = rewrite([4 + Free], Rest, Atom, []),
            Fun = <<112, (4 + 21 + 4 + byte_size(Inside)):32, Head/binary, Free:32, Inside/binary>>,
            rewrite(More, Behind, Atom, [Fun | Done]);
        _ -> rewrite(shape(Bytes) ++ More, Bytes, Atom, Done)
    end.

from_latin1(Name) -> unicode:characters_to_binary(Name, latin1).

shape(<<97, _/binary>>) -> [{bytes, 2}];
shape(<<98, _/binary>>) -> [{bytes, 5}];
shape(<<70, _/binary>>) -> [{bytes, 9}];
shape(<<106, _/binary>>) -> [{bytes, 1}];
shape(<<107, Length:16, _/binary>>) -> [{bytes, 3 + Length}];
shape(<<109, Length:32, _/binary>>) -> [{bytes, 5 + Length}];
shape(<<77, Length:32, _/binary>>) -> [{bytes, 6 + Length}];
shape(<<110, Length, _/binary>>) -> [{bytes, 3 + Length}];
shape(<<111, Length:32, _/binary>>) -> [{bytes, 6 + Length}];
shape(<<104, Arity, _/binary>>) -> [{bytes, 2}, Arity];
shape(<<105, Arity:32, _/binary>>) -> [{bytes, 5}, Arity];
shape(<<108, Length:32, _/binary>>) -> [{bytes, 5}, Length + 1];
shape(<<116, Size:32, _/binary>>) -> [{bytes, 5}, 2 * Size];
shape(<<88, _/binary>>) -> [{bytes, 1}, 1, {bytes, 12}];
shape(<<89, _/binary>>) -> [{bytes, 1}, 1, {bytes, 8}];
shape(<<120, _/binary>>) -> [{bytes, 1}, 1, {bytes, 12}];
shape(<<90, Words:16, _/binary>>) -> [{bytes, 3}, 1, {bytes, 4 + 4 * Words}];
shape(<<113, _/binary>>) -> [{bytes, 1}, 3];
shape(<<67, Fields:32, _/binary>>) -> [{bytes, 6}, 2 + 2 * Fields].

%% ---------------------------------------------------------------- the other end

%% Whether the other end still answers on this very connection, as `net_adm:ping` asks.
-spec alive(wire()) -> true | {error, term()}.
alive(#{node := Node} = Wire) ->
    Ref = make_ref(),
    _ = frame(Wire, {6, pid(Wire), '', net_kernel}, {'$gen_call', {pid(Wire), Ref}, {is_auth, Node}}),
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
