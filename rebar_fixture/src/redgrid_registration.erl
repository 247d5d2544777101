%% @doc What stands in Redis. Pure: the names of keys and channels, hash fields to registration and back, the commands
%% of each change, and the events message.
%%
%% ```
%% redgrid:D:V:NODE         hash    ip and the meta as text: exactly what the redgrid of 2013 reads and writes
%% redgrid:D:V              channel "ping", or the key of a node that has just registered
%% redgrid.info:D:V:NODE    hash    everything else about the node
%% redgrid.index:D:V        zset    node -> unix ms at which its registration ends
%% redgrid.events:D:V       channel one message per change, with the whole registration
%% redgrid.scan:D:V         string  who scans for members that never publish
%% '''
%%
%% D (domain) and V (version) are the scope. Both may be empty and may contain colons, so a key is taken apart by their
%% byte lengths. Everything read here was written by others and is checked.
-module(redgrid_registration).

-export([classic_key/2, info_key/2, index_key/1, channel/1, events_channel/1, scan_key/1, scan_pattern/1]).
-export([node_of_key/2, valid_node/1, host_of/1, name_style/1]).
-export([register/4, renew_classic/3, renew_info/2, suspend/3, leave/3, publish_key/2, look_up/2]).
-export([of_redis/3, encode_event/4, decode_event/1, untrusted_term/2, printable/1]).
-export_type([scope/0, registration/0, event/0]).

-type scope() :: {Domain :: binary(), Version :: binary()}.
-type registration() :: #{node := binary(),
                          ip := binary(),
                          ip6 := binary(),
                          port := unknown | inet:port_number(),
                          proto := binary(),
                          creation := non_neg_integer(),     % 0: unknown
                          impl := binary(),
                          started_at := non_neg_integer(),   % unix ms, 0: unknown
                          hidden := boolean(),
                          status := binary(),
                          classic := boolean(),              % has no info: the library of 2013, or something like it
                          meta := redgrid_meta:typed()}.
-type event() :: #{event := binary(), node := binary(), by := binary(), at := non_neg_integer(),
                   registration := registration()}.

%% Seconds after which a registration ends that is not renewed.
-define(EXPIRY, 60).
-define(MAX_EVENT, 524288).
-define(MAX_FIELDS, 1024).
-define(MAX_FIELD_BYTES, 524288).

%% @doc The key of the classic hash.
-spec classic_key(scope(), binary()) -> binary().
classic_key(Scope, Node) -> <<(scoped(<<"redgrid:">>, Scope))/binary, ":", Node/binary>>.

%% @doc The key of the info hash.
-spec info_key(scope(), binary()) -> binary().
info_key(Scope, Node) -> <<(scoped(<<"redgrid.info:">>, Scope))/binary, ":", Node/binary>>.

%% @doc The key of the index.
-spec index_key(scope()) -> binary().
index_key(Scope) -> scoped(<<"redgrid.index:">>, Scope).

%% @doc The name of the classic channel.
-spec channel(scope()) -> binary().
channel(Scope) -> scoped(<<"redgrid:">>, Scope).

%% @doc The name of the events channel.
-spec events_channel(scope()) -> binary().
events_channel(Scope) -> scoped(<<"redgrid.events:">>, Scope).

%% @doc The key of the scan lock.
-spec scan_key(scope()) -> binary().
scan_key(Scope) -> scoped(<<"redgrid.scan:">>, Scope).

%% @doc The pattern for `SCAN MATCH' that finds the classic keys of a scope.
-spec scan_pattern(scope()) -> binary().
scan_pattern(Scope) ->
    Escaped = re:replace(channel(Scope), "[][*?^\\\\]", "\\\\&", [global, {return, binary}]),
    <<Escaped/binary, ":*">>.

scoped(Prefix, {Domain, Version}) ->
    <<Prefix/binary, Domain/binary, ":", Version/binary>>.

%% @doc The node that a classic key belongs to. `other_scope': it is not ours; `bad_name': it would be, but the rest is
%% no node name.
-spec node_of_key(scope(), binary()) -> {ok, binary()} | other_scope | bad_name.
node_of_key(Scope, Key) ->
    Prefix = <<(channel(Scope))/binary, ":">>,
    Size = byte_size(Prefix),
    case Key of
        <<Prefix:Size/binary, Node/binary>> ->
            case valid_node(Node) of
                true -> {ok, Node};
                false -> bad_name
            end;
        _ -> other_scope
    end.

%% @doc Whether a text can be the name of a node: `NAME@HOST', printable, at most 255 bytes. A colon is allowed in the
%% host only (IPv6), so that the key of another scope never passes for one of ours.
-spec valid_node(binary()) -> boolean().
valid_node(Node) ->
    byte_size(Node) =< 255 andalso
        re:run(Node, "\\A[^\\x00-\\x20\\x7f-\\xff@:\"'\\\\/,;{}()<>]+@[^\\x00-\\x20\\x7f-\\xff@\"'\\\\/,;{}()<>]+\\z",
               [{capture, none}]) =:= match.

%% @doc The host part of a node name.
-spec host_of(binary()) -> binary().
host_of(Node) ->
    [_, Host] = binary:split(Node, <<"@">>),
    Host.

%% @doc Nodes of one style (`erl -name', `erl -sname') cannot connect to nodes of the other.
-spec name_style(binary()) -> long | short.
name_style(Node) ->
    case binary:match(host_of(Node), [<<".">>, <<":">>]) of
        nomatch -> short;
        _ -> long
    end.

%% @doc The commands that register a node in full, as one transaction, so that no reader sees half of it. `Published'
%% are the messages that tell of it: `key', `{event, Message}'. `Now' is Redis' time in unix ms.
-spec register(scope(), registration(), integer(), [key | {event, binary()}]) -> [redgrid_resp:command(), ...].
register(Scope, #{node := Node, status := Status} = Registration, Now, Published) ->
    Classic = classic_key(Scope, Node),
    Public = case Status of
                 <<"suspended">> -> [["DEL", Classic], ["ZREM", index_key(Scope), Node]];
                 _ -> [["DEL", Classic],
                       ["HSET", Classic | classic_fields(Registration)],
                       ["EXPIRE", Classic, ?EXPIRY],
                       index_command(Scope, Node, Now)]
             end,
    Info = info_key(Scope, Node),
    transaction(Public
                ++ [["DEL", Info], ["HSET", Info | info_fields(Registration)], ["EXPIRE", Info, ?EXPIRY]]
                ++ [published(Scope, Node, Message) || Message <- Published]).

%% @doc The commands that delete a registration and say so in `Event'.
-spec leave(scope(), binary(), binary()) -> [redgrid_resp:command(), ...].
leave(Scope, Node, Event) ->
    transaction([["DEL", classic_key(Scope, Node), info_key(Scope, Node)],
                 ["ZREM", index_key(Scope), Node],
                 published(Scope, Node, {event, Event})]).

%% @doc The commands that suspend a node: its info stays, with the status in it.
-spec suspend(scope(), registration(), binary()) -> [redgrid_resp:command(), ...].
suspend(Scope, Registration, Event) ->
    register(Scope, Registration, 0, [{event, Event}]).

%% @doc Renews what others connect by. The first reply is 0 when the hash is gone: then register in full.
-spec renew_classic(scope(), binary(), integer()) -> [redgrid_resp:command(), ...].
renew_classic(Scope, Node, Now) ->
    [["EXPIRE", classic_key(Scope, Node), ?EXPIRY], index_command(Scope, Node, Now)].

%% @doc Renews the info. The reply is 0 when it is gone.
-spec renew_info(scope(), binary()) -> [redgrid_resp:command(), ...].
renew_info(Scope, Node) ->
    [["EXPIRE", info_key(Scope, Node), ?EXPIRY]].

%% @doc Publishes the key of a node on the classic channel.
-spec publish_key(scope(), binary()) -> redgrid_resp:command().
publish_key(Scope, Node) ->
    published(Scope, Node, key).

%% @doc The commands whose replies tell all about one node: see {@link of_redis/3}; then the `PTTL' of the classic hash
%% and the score in the index.
-spec look_up(scope(), binary()) -> [redgrid_resp:command(), ...].
look_up(Scope, Node) ->
    Classic = classic_key(Scope, Node),
    [["HGETALL", Classic], ["HGETALL", info_key(Scope, Node)], ["PTTL", Classic], ["ZSCORE", index_key(Scope), Node]].

published(Scope, Node, key) -> ["PUBLISH", channel(Scope), classic_key(Scope, Node)];
published(Scope, _Node, {event, Message}) -> ["PUBLISH", events_channel(Scope), Message].

index_command(Scope, Node, Now) ->
    ["ZADD", index_key(Scope), Now + ?EXPIRY * 1000, Node].

transaction(Commands) ->
    [["MULTI"]] ++ Commands ++ [["EXEC"]].

classic_fields(#{ip := Ip, meta := Meta}) ->
    lists:append([["ip", Ip] | [[Key, Text] || {Key, Text} <- redgrid_meta:text(Meta)]]).

info_fields(Registration) ->
    #{port := Port, proto := Proto, creation := Creation, impl := Impl, started_at := StartedAt, hidden := Hidden,
      status := Status, ip6 := Ip6, meta := Meta} = Registration,
    ["v", 1, "port", port_number(Port), "proto", Proto, "creation", Creation, "impl", Impl, "started_at", StartedAt,
     "hidden", atom_to_binary(Hidden, utf8), "status", Status]
        ++ case Ip6 of <<>> -> []; _ -> ["ip6", Ip6] end
        ++ ["meta", redgrid_meta:encode(Meta)].

port_number(unknown) -> 0;
port_number(Port) -> Port.

%% @doc The registration in the replies to the `HGETALL's of the classic hash and the info hash. `none': not registered.
-spec of_redis(binary(), redgrid_resp:reply(), redgrid_resp:reply()) ->
          {ok, registration()} | none | {error, string()}.
of_redis(Node, ClassicReply, InfoReply) ->
    case {fields(ClassicReply), fields(InfoReply)} of
        {{error, Why}, _} -> {error, Why};
        {{ok, []}, {ok, Info}} ->
            %% A suspended node has no classic hash; its info alone says that it is still there.
            Registration = of_info(Node, <<>>, Info),
            case Registration of
                #{status := <<"suspended">>} -> {ok, Registration};
                _ -> none
            end;
        {{ok, []}, {error, _}} -> none;
        {{ok, Fields}, Info} ->
            case lists:keytake(<<"ip">>, 1, Fields) of
                {value, {_, Ip}, Meta} ->
                    %% Info that is no hash is as good as none: the classic part stands alone.
                    #{meta := Typed} = Registration = of_info(Node, Ip, case Info of {ok, I} -> I; _ -> [] end),
                    {ok, Registration#{meta := redgrid_meta:of_fields(Meta, Typed)}};
                false -> {error, "its hash has no field ip"}
            end
    end.

fields({error, Text}) ->
    {error, "it cannot be read: " ++ printable(Text)};
fields(Reply) when is_list(Reply), length(Reply) =< 2 * ?MAX_FIELDS ->
    pairs(Reply, [], 0);
fields(_Reply) ->
    {error, "it is too large, or no hash"}.

pairs([Key, Value | Rest], Acc, Size) when is_binary(Key), is_binary(Value) ->
    pairs(Rest, [{Key, Value} | Acc], Size + byte_size(Key) + byte_size(Value));
pairs([], Acc, Size) when Size =< ?MAX_FIELD_BYTES ->
    {ok, lists:reverse(Acc)};
pairs(_Other, _Acc, _Size) ->
    {error, "it is too large, or no hash"}.

%% @doc A text of others as it may stand in a log line: ASCII, and not too long.
-spec printable(binary()) -> string().
printable(Text) ->
    Start = binary:part(Text, 0, min(byte_size(Text), 300)),
    [case Char >= 32 andalso Char < 127 of true -> Char; false -> $? end || <<Char>> <= Start].

of_info(Node, Ip, Fields) ->
    Get = fun(Key, Default) ->
                  case lists:keyfind(Key, 1, Fields) of
                      {_, Value} -> Value;
                      false -> Default
                  end
          end,
    #{node => Node,
      ip => Ip,
      ip6 => Get(<<"ip6">>, <<>>),
      port => port_of(Get(<<"port">>, unknown)),
      proto => Get(<<"proto">>, <<"tcp">>),
      creation => natural(Get(<<"creation">>, 0)),
      impl => Get(<<"impl">>, <<>>),
      started_at => natural(Get(<<"started_at">>, 0)),
      hidden => boolean(Get(<<"hidden">>, false)),
      status => Get(<<"status">>, <<"up">>),
      classic => Fields =:= [],
      meta => case redgrid_meta:decode(Get(<<"meta">>, <<>>)) of {ok, Typed} -> Typed; error -> [] end}.

port_of(unknown) -> unknown;
port_of(Value) ->
    case natural(Value) of
        Port when Port =< 65535 -> Port;
        _ -> 0
    end.

natural(Value) when is_integer(Value), Value >= 0, Value < 1 bsl 64 -> Value;
natural(Value) when is_binary(Value), byte_size(Value) =< 20 ->
    try natural(binary_to_integer(Value)) catch error:badarg -> 0 end;
natural(_Value) -> 0.

boolean(Value) -> lists:member(Value, [true, 1, <<"true">>, <<"1">>]).

%% @doc An events message: `Event' happened to the node of the registration, `By' says so, `At' unix ms.
-spec encode_event(binary(), registration(), binary(), integer()) -> binary().
encode_event(Event, Registration, By, At) ->
    #{node := Node, ip := Ip, ip6 := Ip6, port := Port, proto := Proto, creation := Creation, hidden := Hidden,
      status := Status, impl := Impl, started_at := StartedAt, classic := Classic, meta := Meta} = Registration,
    Message = #{<<"v">> => 1, <<"event">> => Event, <<"node">> => Node, <<"creation">> => Creation, <<"ip">> => Ip,
                <<"proto">> => Proto, <<"hidden">> => atom_to_binary(Hidden, utf8),
                <<"status">> => Status, <<"impl">> => Impl, <<"started_at">> => StartedAt, <<"meta">> => Meta,
                <<"by">> => By, <<"at">> => At},
    Ip6Part = case Ip6 of <<>> -> #{}; _ -> #{<<"ip6">> => Ip6} end,
    %% A classic member has no port to tell: without the key, readers ask its epmd.
    PortPart = case Classic of true -> #{}; false -> #{<<"port">> => port_number(Port)} end,
    term_to_binary(maps:merge(Message, maps:merge(Ip6Part, PortPart))).

%% @doc Reads an events message. Unknown keys are ignored, and a higher `v' is read as far as it is known.
-spec decode_event(binary()) -> {ok, event()} | error.
decode_event(Bytes) ->
    case untrusted_term(Bytes, ?MAX_EVENT) of
        {ok, #{<<"event">> := Event, <<"node">> := Node} = Map} when is_binary(Event), is_binary(Node) ->
            case valid_node(Node) of
                true -> {ok, event(Event, Node, Map)};
                false -> error
            end;
        _ -> error
    end.

event(Event, Node, Map) ->
    Binary = fun(Key, Default) ->
                     case Map of
                         #{Key := Value} when is_binary(Value), byte_size(Value) =< 255 -> Value;
                         _ -> Default
                     end
             end,
    Meta = case redgrid_meta:valid(maps:get(<<"meta">>, Map, [])) of {ok, Typed} -> Typed; error -> [] end,
    #{event => Event,
      node => Node,
      by => Binary(<<"by">>, <<>>),
      at => natural(maps:get(<<"at">>, Map, 0)),
      registration =>
          #{node => Node,
            ip => Binary(<<"ip">>, <<>>),
            ip6 => Binary(<<"ip6">>, <<>>),
            port => port_of(maps:get(<<"port">>, Map, unknown)),
            proto => Binary(<<"proto">>, <<"tcp">>),
            creation => natural(maps:get(<<"creation">>, Map, 0)),
            impl => Binary(<<"impl">>, <<>>),
            started_at => natural(maps:get(<<"started_at">>, Map, 0)),
            hidden => boolean(maps:get(<<"hidden">>, Map, false)),
            status => Binary(<<"status">>, <<"up">>),
            classic => not maps:is_key(<<"port">>, Map),
            meta => Meta}}.

%% @doc A term out of bytes that nobody vouches for: bounded, not compressed (a few bytes could become gigabytes), and
%% without making atoms or funs.
-spec untrusted_term(binary(), pos_integer()) -> {ok, term()} | error.
untrusted_term(<<131, Tag, _/binary>> = Bytes, Max) when Tag =/= 80, byte_size(Bytes) =< Max ->
    try
        {ok, binary_to_term(Bytes, [safe])}
    catch
        error:badarg -> error
    end;
untrusted_term(_Bytes, _Max) ->
    error.
