%% @doc The meta of a node: what its user says about it. Pure.
%%
%% Users give a proplist or a map. It is kept as typed meta, a list of `{Key, Type, Text}', all binaries, so that a reader
%% can have the text of everything without making an atom, and the very terms where that is safe. Types: `a' atom,
%% `b' binary, `s' string, `i' integer, `f' float.
-module(redgrid_meta).

-export([check/1, text/1, native/2, native_key/2, encode/1, decode/1, valid/1, of_fields/2]).
-export_type([meta/0, typed/0, bad_meta/0]).

-type key() :: atom() | binary() | string().
-type value() :: atom() | binary() | string() | integer() | float().
-type meta() :: [{key(), value()} | atom()] | #{key() => value()}.
-type typed() :: [{Key :: binary(), Type :: binary(), Text :: binary()}].
-type bad_meta() :: {bad_meta, term()}.

-define(MAX_ENTRIES, 64).
-define(MAX_KEY, 255).
-define(MAX_VALUE, 4096).
%% What is read of others is bounded too, but less tightly: the original library knew no bounds.
-define(MAX_READ_ENTRIES, 1024).
-define(MAX_ENCODED, 524288).

%% @doc Checks what a user gave. As in any proplist, the first entry of a key counts.
-spec check(term()) -> {ok, typed()} | {error, bad_meta()}.
check(Meta) when is_map(Meta) ->
    check(lists:sort(maps:to_list(Meta)));
check(Meta) when is_list(Meta) ->
    entries(Meta, []);
check(Meta) ->
    bad({not_a_list_or_map, Meta}).

entries([], Acc) ->
    Typed = lists:reverse(Acc),
    case length(Typed) > ?MAX_ENTRIES of
        true -> bad({too_many_entries, length(Typed), {max, ?MAX_ENTRIES}});
        false -> {ok, Typed}
    end;
entries([Entry | Rest], Acc) ->
    case entry(Entry) of
        {ok, {Key, _, _} = Checked} ->
            case lists:keymember(Key, 1, Acc) of
                true -> entries(Rest, Acc);
                false -> entries(Rest, [Checked | Acc])
            end;
        {error, What} ->
            bad(What)
    end;
entries(_Tail, _Acc) ->
    bad(improper_list).

bad(What) ->
    {error, {bad_meta, What}}.

entry(Atom) when is_atom(Atom) -> entry({Atom, true});
entry({Key, Value}) ->
    case key(Key) of
        {ok, <<"ip">>} -> {error, {reserved_key, Key}};
        {ok, Text} when byte_size(Text) > ?MAX_KEY -> {error, {key_too_long, Key, {max, ?MAX_KEY}}};
        {ok, Text} ->
            case value(Value) of
                {ok, _, Long} when byte_size(Long) > ?MAX_VALUE -> {error, {value_too_long, Key, {max, ?MAX_VALUE}}};
                {ok, Type, ValueText} -> {ok, {Text, Type, ValueText}};
                error -> {error, {bad_value, Key, Value}}
            end;
        error -> {error, {bad_key, Key}}
    end;
entry(Other) ->
    {error, {bad_entry, Other}}.

key('') -> error;
key(Key) when is_atom(Key) -> {ok, atom_to_binary(Key, utf8)};
key(<<>>) -> error;
key(Key) when is_binary(Key) -> {ok, Key};
key([_ | _] = Key) -> string(Key);
key(_Key) -> error.

value(Value) when is_atom(Value) -> {ok, <<"a">>, atom_to_binary(Value, utf8)};
value(Value) when is_binary(Value) -> {ok, <<"b">>, Value};
value(Value) when is_integer(Value) ->
    %% A number of megabytes would take its time to become text only to be refused.
    case erlang:external_size(Value) > ?MAX_VALUE of
        true -> error;
        false -> {ok, <<"i">>, integer_to_binary(Value)}
    end;
value(Value) when is_float(Value) -> {ok, <<"f">>, float_to_binary(Value, [short])};
value(Value) when is_list(Value) ->
    case string(Value) of
        {ok, Text} -> {ok, <<"s">>, Text};
        error -> error
    end;
value(_Value) -> error.

string(Chars) ->
    try unicode:characters_to_binary(flat(Chars)) of
        Text when is_binary(Text) -> {ok, Text};
        _ -> error
    catch
        throw:not_a_string -> error
    end.

flat([Char | Rest]) when is_integer(Char) -> [Char | flat(Rest)];
flat([]) -> [];
flat(_) -> throw(not_a_string).

%% @doc Keys and values as text, as the classic hash and `redgrid:nodes()' have them.
-spec text(typed()) -> [{binary(), binary()}].
text(Typed) ->
    [{Key, Text} || {Key, _Type, Text} <- Typed].

%% @doc Keys and values as they were given, as far as `ToAtom' gives atoms. What cannot be read back stays a binary.
-spec native(typed(), fun((binary()) -> {ok, atom()} | error)) -> [{atom() | binary(), value()}].
native(Typed, ToAtom) ->
    [{native_key(Key, ToAtom), native_value(Type, Text, ToAtom)} || {Key, Type, Text} <- Typed].

%% @doc A key that is a plain atom (`[a-z][A-Za-z0-9_@]*') is one; any other stays a binary.
-spec native_key(binary(), fun((binary()) -> {ok, atom()} | error)) -> atom() | binary().
native_key(Key, ToAtom) ->
    case re:run(Key, "\\A[a-z][A-Za-z0-9_@]*\\z", [{capture, none}]) of
        match ->
            case ToAtom(Key) of
                {ok, Atom} -> Atom;
                error -> Key
            end;
        nomatch ->
            Key
    end.

native_value(<<"a">>, Text, ToAtom) ->
    case ToAtom(Text) of
        {ok, Atom} -> Atom;
        error -> Text
    end;
native_value(<<"s">>, Text, _ToAtom) ->
    case unicode:characters_to_list(Text) of
        Chars when is_list(Chars) -> Chars;
        _ -> Text
    end;
native_value(<<"i">>, Text, _ToAtom) when byte_size(Text) =< ?MAX_VALUE ->
    try binary_to_integer(Text) catch error:badarg -> Text end;
native_value(<<"f">>, Text, _ToAtom) when byte_size(Text) =< ?MAX_VALUE ->
    float(Text, [Text, with_fraction(Text)]);
native_value(_Type, Text, _ToAtom) ->
    Text.

float(Text, []) -> Text;
float(Text, [Try | Rest]) ->
    try binary_to_float(Try) catch error:badarg -> float(Text, Rest) end.

%% Other languages write 1e21 and 5 where Erlang wants 1.0e21 and 5.0.
with_fraction(Text) ->
    case binary:split(Text, [<<"e">>, <<"E">>]) of
        [Mantissa, Exponent] -> <<Mantissa/binary, ".0e", Exponent/binary>>;
        [Mantissa] -> <<Mantissa/binary, ".0">>
    end.

%% @doc Typed meta as the bytes of the info hash.
-spec encode(typed()) -> binary().
encode(Typed) ->
    term_to_binary(Typed).

%% @doc Typed meta out of bytes that nobody vouches for.
-spec decode(binary()) -> {ok, typed()} | error.
decode(Bytes) ->
    case redgrid_registration:untrusted_term(Bytes, ?MAX_ENCODED) of
        {ok, Term} -> valid(Term);
        error -> error
    end.

%% @doc Whether a term is typed meta. Unknown types are read as binaries: a later version may know more.
-spec valid(term()) -> {ok, typed()} | error.
valid(Term) -> valid(Term, [], 0).

valid([], Acc, _Count) -> {ok, lists:reverse(Acc)};
valid([{Key, Type, Text} | Rest], Acc, Count)
  when is_binary(Key), is_binary(Type), is_binary(Text), Count < ?MAX_READ_ENTRIES ->
    valid(Rest, [{Key, Type, Text} | Acc], Count + 1);
valid(_Other, _Acc, _Count) -> error.

%% @doc The meta of a member out of the fields of its classic hash (without `ip') and its typed meta, if there is any.
%% The classic hash is what every reader sees, so it has the last word: a typed entry counts only where it says the same.
-spec of_fields([{binary(), binary()}], typed()) -> typed().
of_fields(Fields, Typed) ->
    case lists:sort(Fields) =:= lists:sort(text(Typed)) of
        true -> Typed;
        false -> [field(Key, Text, Typed) || {Key, Text} <- Fields]
    end.

field(Key, Text, Typed) ->
    case lists:keyfind(Key, 1, Typed) of
        {Key, Type, Text} -> {Key, Type, Text};
        _ -> {Key, <<"b">>, Text}
    end.
