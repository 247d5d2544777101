%% The other end of terms.rs: a real Erlang that reads our terms and makes some of its own. Packets of four bytes of length
%% over a socket; a list in one is <<Size:32, Item:Size/binary>> again and again.
%%
%%   <<"read", Terms>>           for each: <<>> when it is no term here, or else the same term in every form that this
%%                               release writes
%%   <<"make", Seed:64, N:32>>   N terms that are kept here: <<Opaque, Bytes>>, Opaque being 1 where eetf has no value for
%%                               such a term
%%   <<"back", Terms>>           as many for each kept term as came back of it: <<>>, or what is not the same, as text
-module(terms).
-export([start/1, local/1]).

start([Port]) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, list_to_integer(Port), [binary, {packet, 4}, {active, false}]),
    put(socket, Socket),
    serve(Socket),
    halt(0, [{flush, false}]).

serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, <<"read", Terms/binary>>} ->
            send(Socket, [read(Term) || Term <- items(Terms)]);
        {ok, <<"make", Seed:64, N:32>>} ->
            rand:seed(exsss, Seed),
            Made = [{1, Term} || Term <- opaque()] ++ [{0, Term} || Term <- by_hand() ++ [random(4) || _ <- lists:seq(1, N)]],
            put(made, [Term || {_, Term} <- Made]),
            send(Socket, [[Opaque, one_of(forms(Term))] || {Opaque, Term} <- Made]);
        {ok, <<"back", Terms/binary>>} ->
            send(Socket, lists:zipwith(fun back/2, get(made), items(Terms)));
        {error, closed} ->
            halt(0, [{flush, false}])
    end,
    serve(Socket).

send(Socket, Items) -> ok = gen_tcp:send(Socket, list(Items)).

list(Items) -> [[<<(iolist_size(Item)):32>>, Item] || Item <- Items].

items(Bytes) -> [Item || <<Size:32, Item:Size/binary>> <= Bytes].

read(Bytes) ->
    try binary_to_term(Bytes) of
        Term -> list(forms(Term))
    catch error:badarg -> <<>>
    end.

%% Option lists that a release does not know are left out. That a form is the same term here is checked first.
forms(Term) ->
    Options = [[], [{minor_version, 0}], [{minor_version, 1}], [{minor_version, 2}], [compressed], [{compressed, 9}],
               [deterministic]],
    Forms = lists:append([try [term_to_binary(Term, Option)] catch error:badarg -> [] end || Option <- Options]),
    [true = same(Term, binary_to_term(Form)) || Form <- Forms],
    lists:usort(Forms).

%% `=:=` tells 0.0 from -0.0 from OTP 27 on only; the bytes always do.
same(A, B) -> A =:= B andalso term_to_binary(A) =:= term_to_binary(B).

back(Term, Backs) ->
    case [Back || Back <- items(Backs), not same(Term, binary_to_term(Back))] of
        [] -> <<>>;
        [Back | _] -> io_lib:format("~0p came back as ~0p, ~0p", [Term, binary_to_term(Back), Back])
    end.

%% ---------------------------------------------------------------- terms

%% What a term in Rust cannot hold, and has to be passed on as it is.
opaque() ->
    Records = records,
    New = case code:ensure_loaded(Records) of
              {module, Records} ->
                  Record = apply(Records, create, [?MODULE, point, [{x, 1}, {y, [-2]}], #{is_exported => true}]),
                  [Record, [Record, {Record}]];
              {error, _} -> []
          end,
    [#{#{a => 1} => b}, #{{[#{a => 1}]} => b}, {x, #{[#{a => 1} | b] => #{}}} | New].

by_hand() ->
    Big = 1 bsl 4194239,
    Shared = make_ref(),
    [Big, -Big, 1 bsl 2040, 1 bsl 2039 - 1,
     lists:seq(0, 255), lists:duplicate(65535, $x), lists:duplicate(65536, $x), list_to_tuple(lists:seq(1, 256)),
     maps:from_list([{N, -N} || N <- lists:seq(1, 1000)]),
     list_to_atom(lists:duplicate(255, 16#10FFFF)), list_to_atom(lists:duplicate(255, 255)), '',
     fun no_module:no_function/255, fun lists:map/2, local(Shared), [local(local([-1])), local(#{})],
     evaluated("fun(X) -> {X, " ++ "[1, 2 | three]} end."),
     get(socket), erlang:ports(), self(), group_leader(), alias(), [alias | alias()], make_ref(),
     binary:copy(<<1, 2, 3>>, 10000), term_to_binary({some, "thing"}, [compressed]), <<1:1>>, <<0:9>>,
     [[[]]], [a | b], [[] | [[]]], {{{}}}, #{}, #{[] => {}}, -0.0, 0.0, [0.0, -0.0], 5.0e-324, 1.7976931348623157e308]
        ++ foreign().

%% Of nodes that are not here, as other nodes send them: every width there is.
foreign() ->
    Nodes = [<<119, 7, "xy@host">>, <<118, 7:16, "xy@host">>, <<115, 7, "xy@host">>, <<100, 7:16, "x", 255, "@host">>,
             <<115, 7, 228, "y@host">>],
    [binary_to_term(<<131, Bytes/binary>>) || N <- Nodes, Bytes <-
        [<<88, N/binary, Id:32, Serial:32, Creation:32>>
         || {Id, Serial, Creation} <- [{1, 0, 4}, {16#FFFFFFFF, 16#FFFFFFFF, 16#FFFFFFFF}, {0, 1 bsl 31, 1}]]
        ++ [<<103, N/binary, 5:32, 1:32, 3>>, <<102, N/binary, 5:32, 3>>, <<101, N/binary, 7:32, 2>>]
        ++ [<<114, 3:16, N/binary, 2, 1:32, 2:32, 3:32>>, <<89, N/binary, 9:32, 16#FFFFFFFF:32>>]
        ++ [<<120, N/binary, Id:64, 16#FFFFFFFE:32>> || Id <- [0, 1 bsl 28 - 1, 1 bsl 28, 1 bsl 32, (1 bsl 64) - 1]]
        ++ [<<90, Words:16, N/binary, 16#FFFFFFFF:32, (binary:copy(<<16#FFFFFFFF:32>>, Words))/binary>>
            || Words <- lists:seq(1, 5)]].

local(X) -> fun(Y) -> {X, Y} end.

evaluated(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    {ok, Exprs} = erl_parse:parse_exprs(Tokens),
    {value, Fun, _} = erl_eval:exprs(Exprs, []),
    Fun.

random(0) ->
    case rand:uniform(14) of
        1 -> rand:uniform(600) - 300;
        2 -> rand:uniform(1 bsl 80) - (1 bsl 79);
        3 -> binary:decode_unsigned(rand:bytes(rand:uniform(400))) * one_of([1, -1]);
        4 -> (rand:uniform() - 0.5) * math:pow(10, rand:uniform(600) - 300);
        5 -> one_of([a, 'B c', [], 'ß', 'Ωmega', true, 'ÿ']);
        6 -> list_to_atom([rand:uniform(255) || _ <- lists:seq(1, rand:uniform(4))]);
        7 -> rand:bytes(rand:uniform(20));
        8 -> Bits = rand:uniform(40), <<(rand:uniform(1 bsl 40)):Bits>>;
        9 -> [rand:uniform(256) - 1 || _ <- lists:seq(1, rand:uniform(10))];
        10 -> [rand:uniform(300) - 40 || _ <- lists:seq(1, rand:uniform(5))];
        11 -> make_ref();
        12 -> one_of([self(), alias(), get(socket)]);
        13 -> one_of([fun lists:map/2, fun a:b/0, local([])]);
        14 -> lists:nth(rand:uniform(40), foreign())
    end;
random(Depth) ->
    Some = fun() -> [random(rand:uniform(Depth) - 1) || _ <- lists:seq(1, rand:uniform(6) - 1)] end,
    case rand:uniform(7) of
        1 -> Some();
        2 -> list_to_tuple(Some());
        3 -> maps:from_list([{random(0), random(Depth - 1)} || _ <- Some()]);
        4 -> Some() ++ random(0);
        5 -> local(Some());
        6 -> [{one_of([name, age, "tag", <<"bin">>]), random(Depth - 1)} || _ <- Some()];
        7 -> random(0)
    end.

one_of(List) -> lists:nth(rand:uniform(length(List)), List).
