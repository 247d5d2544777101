-module(redgrid_meta_tests).
-include_lib("eunit/include/eunit.hrl").

-define(ATOMS, fun redgrid_atoms:from_text/1).

every_type_keeps_its_type_and_reads_as_text_test() ->
    {ok, Typed} = redgrid_meta:check([{weight, 0}, {"role", "web"}, {<<"blob">>, <<1, 255>>}, {load, 0.1}, up, {x, y}]),
    ?assertEqual([{<<"weight">>, <<"i">>, <<"0">>}, {<<"role">>, <<"s">>, <<"web">>}, {<<"blob">>, <<"b">>, <<1, 255>>},
                  {<<"load">>, <<"f">>, <<"0.1">>}, {<<"up">>, <<"a">>, <<"true">>}, {<<"x">>, <<"a">>, <<"y">>}], Typed),
    ?assertEqual([{weight, 0}, {role, "web"}, {blob, <<1, 255>>}, {load, 0.1}, {up, true}, {x, y}],
                 redgrid_meta:native(Typed, ?ATOMS)).

a_map_is_meta_too_test() ->
    ?assertEqual({ok, [{<<"a">>, <<"i">>, <<"1">>}, {<<"b">>, <<"s">>, <<>>}]}, redgrid_meta:check(#{a => 1, b => ""})).

the_first_entry_of_a_key_counts_test() ->
    ?assertEqual({ok, [{<<"a">>, <<"i">>, <<"1">>}]}, redgrid_meta:check([{a, 1}, {<<"a">>, 2}])).

bad_meta_is_refused_with_what_is_wrong_test_() ->
    [?_assertMatch({error, {bad_meta, What}}, redgrid_meta:check(Meta))
     || {What, Meta} <- [{{not_a_list_or_map, 5}, 5},
                         {{bad_entry, 97}, "abc"},
                         {{reserved_key, ip}, [{ip, "1.2.3.4"}]},
                         {{reserved_key, <<"ip">>}, #{<<"ip">> => 1}},
                         {{bad_key, 5}, [{5, 5}]},
                         {{bad_key, ""}, [{"", 5}]},
                         {{bad_value, a, {1}}, [{a, {1}}]},
                         {{bad_value, a, [a]}, [{a, [a]}]},
                         {{bad_value, a, [1 | 2]}, [{a, [1 | 2]}]},
                         {improper_list, [{a, 1} | b]},
                         {{value_too_long, a, {max, 4096}}, [{a, binary:copy(<<"x">>, 4097)}]},
                         {{key_too_long, binary:copy(<<"x">>, 256), {max, 255}}, [{binary:copy(<<"x">>, 256), 1}]},
                         {{too_many_entries, 65, {max, 64}}, [{integer_to_list(N), N} || N <- lists:seq(1, 65)]}]].

the_bounds_themselves_are_allowed_test() ->
    Meta = [{iolist_to_binary(io_lib:format("~255.10.0b", [N])), binary:copy(<<"x">>, 4096)} || N <- lists:seq(1, 64)],
    {ok, Typed} = redgrid_meta:check(Meta),
    ?assertEqual({ok, Typed}, redgrid_meta:decode(redgrid_meta:encode(Typed))).

text_of_others_makes_no_atom_test() ->
    Refuse = fun(_) -> error end,
    Typed = [{<<"never_an_atom_here">>, <<"a">>, <<"nor_here">>}, {<<"Big">>, <<"i">>, <<"1x">>},
             {<<"f">>, <<"f">>, <<"1e21">>}, {<<"z">>, <<"z">>, <<"?">>}],
    ?assertEqual([{<<"never_an_atom_here">>, <<"nor_here">>}, {<<"Big">>, <<"1x">>}, {<<"f">>, 1.0e21},
                  {<<"z">>, <<"?">>}], redgrid_meta:native(Typed, Refuse)).

typed_meta_counts_only_where_it_says_what_the_classic_hash_says_test() ->
    Typed = [{<<"a">>, <<"i">>, <<"1">>}, {<<"b">>, <<"a">>, <<"x">>}],
    ?assertEqual(Typed, redgrid_meta:of_fields([{<<"b">>, <<"x">>}, {<<"a">>, <<"1">>}], Typed)),
    ?assertEqual([{<<"a">>, <<"i">>, <<"1">>}, {<<"b">>, <<"b">>, <<"y">>}],
                 redgrid_meta:of_fields([{<<"a">>, <<"1">>}, {<<"b">>, <<"y">>}], Typed)).

rubbish_is_no_typed_meta_test_() ->
    [?_assertEqual(error, redgrid_meta:decode(Bytes))
     || Bytes <- [<<>>, <<131>>, <<131, 80, 0, 0, 0, 1, 0>>, term_to_binary(lists:duplicate(1000, {<<>>, <<>>, <<>>}), [compressed]),
                  term_to_binary([{a, b, c}]), term_to_binary([{<<>>, <<>>, <<>>} | x]), term_to_binary(#{}),
                  <<131, 104, 1, 119, 20, "never_seen_atom_here">>]].
