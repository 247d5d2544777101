%% @doc RESP2, the wire format of Redis. Pure: bytes to replies, commands to bytes.
%%
%% A reply is a binary (`+X' and bulk strings), `{error, Line}' (`-X', also inside arrays), an integer, `undefined' (nil)
%% or a list of replies. The bytes are not trusted: sizes, depth and line length are bounded, and whatever breaks the
%% format is an error, after which the stream cannot be read any further.
-module(redgrid_resp).

-export([encode/1, parse/1]).
-export_type([command/0, reply/0]).

-type command() :: [iodata() | integer()].
-type reply() :: binary() | integer() | undefined | {error, binary()} | [reply()].

-define(MAX_LINE, 65536).
-define(MAX_BULK, 16#1000000).      % 16 MiB
-define(MAX_ARRAY, 1048576).
-define(MAX_DEPTH, 8).

%% @doc One command as an array of bulk strings. A string (list) stands for its bytes, as in `["GET", "foo"]'.
-spec encode(command()) -> iolist().
encode(Parts) ->
    [$*, integer_to_binary(length(Parts)), "\r\n" | [bulk(Part) || Part <- Parts]].

bulk(Int) when is_integer(Int) -> bulk(integer_to_binary(Int));
bulk(Data) -> [$$, integer_to_binary(iolist_size(Data)), "\r\n", Data, "\r\n"].

%% @doc The first reply of the buffer and what follows it. `{more, Need}': come back when the buffer has at least `Need'
%% bytes (0: any more will do).
-spec parse(binary()) -> {ok, reply(), binary()} | {more, non_neg_integer()} | {error, atom()}.
parse(Buffer) ->
    case value(Buffer, 0, ?MAX_DEPTH) of
        {ok, Reply, End} ->
            <<_:End/binary, Rest/binary>> = Buffer,
            {ok, Reply, Rest};
        Other ->
            Other
    end.

%% Everything below works on offsets into the one buffer, so that `{more, Need}' counts from its beginning.
value(_Buffer, _At, 0) ->
    {error, nested_too_deep};
value(Buffer, At, Depth) ->
    case line(Buffer, At) of
        {ok, $+, Text, End} -> {ok, Text, End};
        {ok, $-, Text, End} -> {ok, {error, Text}, End};
        {ok, Type, Text, End} when Type =:= $:; Type =:= $$; Type =:= $* ->
            case number(Text) of
                {ok, Int} -> sized(Type, Int, Buffer, End, Depth);
                error -> {error, bad_number}
            end;
        {ok, _Type, _Text, _End} -> {error, unknown_type};
        Other -> Other
    end.

sized($:, Int, _Buffer, At, _Depth) ->
    {ok, Int, At};
sized(_Type, -1, _Buffer, At, _Depth) ->
    {ok, undefined, At};
sized($$, Size, _Buffer, _At, _Depth) when Size < 0; Size > ?MAX_BULK ->
    {error, bulk_too_large};
sized($$, Size, Buffer, At, _Depth) ->
    case Buffer of
        <<_:At/binary, Data:Size/binary, "\r\n", _/binary>> -> {ok, binary:copy(Data), At + Size + 2};
        <<_:At/binary, _:Size/binary, _, _, _/binary>> -> {error, bad_bulk};
        _ -> {more, At + Size + 2}
    end;
sized($*, Count, _Buffer, _At, _Depth) when Count < 0; Count > ?MAX_ARRAY ->
    {error, array_too_large};
sized($*, Count, Buffer, At, Depth) ->
    elements(Count, Buffer, At, Depth - 1, []).

elements(0, _Buffer, At, _Depth, Acc) ->
    {ok, lists:reverse(Acc), At};
elements(Count, Buffer, At, Depth, Acc) ->
    case value(Buffer, At, Depth) of
        {ok, Reply, End} -> elements(Count - 1, Buffer, End, Depth, [Reply | Acc]);
        Other -> Other
    end.

line(Buffer, At) when byte_size(Buffer) =< At ->
    {more, 0};
line(Buffer, At) ->
    Length = min(byte_size(Buffer) - At, ?MAX_LINE),
    case binary:match(Buffer, <<"\r\n">>, [{scope, {At, Length}}]) of
        {End, 2} when End > At ->
            Size = End - At - 1,
            <<_:At/binary, Type, Text:Size/binary, _/binary>> = Buffer,
            {ok, Type, binary:copy(Text), End + 2};
        {_, 2} -> {error, empty_line};
        nomatch when Length =:= ?MAX_LINE -> {error, line_too_long};
        nomatch -> {more, 0}
    end.

number(Text) when byte_size(Text) =< 20 ->
    try {ok, binary_to_integer(Text)} catch error:badarg -> error end;
number(_Text) ->
    error.
