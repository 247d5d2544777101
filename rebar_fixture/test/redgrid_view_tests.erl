-module(redgrid_view_tests).
-include_lib("eunit/include/eunit.hrl").
-define(V, redgrid_view).
-define(FOO, <<"foo@10.0.0.1">>).

registration() -> (redgrid_registration_tests:registration())#{node := ?FOO}.
answer(Pttl, Score) -> {registered, registration(), Pttl, Score, false}.
event(Event, By) -> #{event => Event, node => ?FOO, by => By, at => 0, registration => registration()}.
listed(View) -> [Node || {Node, Member} <- ?V:members(View), ?V:listed(Member)].
new() -> ?V:new(<<"own@10.0.0.9">>).

joined() ->
    {joined, View} = ?V:looked_up(?FOO, published, answer(60000, 1.0), 0, new()),
    View.

up() ->
    {known, View} = ?V:up(?FOO, 10, joined()),
    View.

a_registered_node_is_listed_and_dialled_at_once_test() ->
    ?assertEqual([?FOO], listed(joined())),
    {[], [?FOO], View} = ?V:due(0, true, joined()),
    ?assertMatch({[], [], _}, ?V:due(1, true, View)).

a_failed_dial_is_tried_again_later_and_later_test() ->
    {_, _, View} = ?V:due(0, true, joined()),
    First = ?V:dial_failed(?FOO, 0, 0.5, View),
    ?assertMatch({_, [], _}, ?V:due(999, true, First)),
    {_, [?FOO], Again} = ?V:due(1000, true, First),
    Second = ?V:dial_failed(?FOO, 1000, 0.5, Again),
    ?assertMatch({_, [], _}, ?V:due(2999, true, Second)),
    ?assertMatch({_, [?FOO], _}, ?V:due(3000, true, Second)).

a_node_never_connected_leaves_when_its_registration_ends_test() ->
    {[], _, View} = ?V:due(60000, true, joined()),
    {[?FOO], _, Checked} = ?V:due(61000, true, View),
    ?assertMatch({left, _}, ?V:looked_up(?FOO, check, none, 61000, Checked)),
    {none, Renewed} = ?V:looked_up(?FOO, check, answer(30000, 1.0), 61000, Checked),
    ?assertEqual([?FOO], listed(Renewed)).

while_redis_is_away_nobody_leaves_test() ->
    {[], _, View} = ?V:due(1000000, false, joined()),
    ?assertEqual([?FOO], listed(View)).

a_connected_node_stays_though_its_registration_is_gone_test() ->
    {none, View} = ?V:looked_up(?FOO, check, none, 20, up()),
    ?assertEqual([?FOO], listed(View)).

down() ->
    {known, View} = ?V:down(?FOO, 20, 0.0, up()),
    {[?FOO], [], Asked} = ?V:due(20, true, View),
    {none, Baseline} = ?V:looked_up(?FOO, check, answer(40000, 5.0), 21, Asked),
    Baseline.

a_node_whose_connection_broke_is_out_though_its_hash_lives_on_test() ->
    ?assertEqual([], listed(down())),
    {none, View} = ?V:looked_up(?FOO, check, answer(39000, 5.0), 5000, down()),
    ?assertEqual([], listed(View)),
    {none, Told} = ?V:told(event(<<"joined">>, <<"scanner@10.0.0.3">>), false, 5000, View),
    ?assertEqual([], listed(Told)).

a_renewal_after_the_break_brings_it_back_test_() ->
    [?_assertMatch({joined, _}, ?V:looked_up(?FOO, check, answer(40001, 5.0), 5000, down())),
     ?_assertMatch({joined, _}, ?V:looked_up(?FOO, check, answer(1, 6.0), 5000, down())),
     ?_assertMatch({joined, _}, ?V:looked_up(?FOO, published, answer(1, 1.0), 5000, down())),
     ?_assertMatch({joined, _}, ?V:told(event(<<"meta">>, ?FOO), false, 5000, down())),
     fun() ->
             {known, View} = ?V:up(?FOO, 5000, down()),
             ?assertEqual([?FOO], listed(View))
     end].

a_broken_node_is_dialled_again_after_a_second_test() ->
    ?assertMatch({_, [], _}, ?V:due(1019, true, down())),
    ?assertMatch({_, [?FOO], _}, ?V:due(1020, true, down())).

a_node_that_says_left_is_gone_at_once_test() ->
    {left, View} = ?V:told(event(<<"left">>, ?FOO), true, 20, up()),
    ?assertEqual([], listed(View)),
    ?assertMatch({look_up, _}, ?V:told(event(<<"left">>, <<"other@10.0.0.3">>), true, 20, up())),
    %% The last word of an earlier life.
    Old = event(<<"left">>, ?FOO),
    ?assertMatch({none, _}, ?V:told(Old#{registration := (registration())#{creation := 6}}, true, 20, up())).

a_suspended_node_is_not_listed_and_not_dialled_test() ->
    Event = event(<<"suspended">>, ?FOO),
    {suspended, View} = ?V:told(Event#{registration := (registration())#{status := <<"suspended">>}}, true, 20, up()),
    ?assertEqual([], listed(View)),
    {known, Down} = ?V:down(?FOO, 30, 0.0, View),
    ?assertMatch({_, [], _}, ?V:due(10000, true, Down)),
    {resumed, Back} = ?V:told(event(<<"resumed">>, ?FOO), true, 40, View),
    ?assertEqual([?FOO], listed(Back)).

a_view_is_bounded_and_counts_what_it_left_out_test() ->
    {joined, View} = ?V:looked_up(?FOO, check, answer(1, 1.0), 0, ?V:new(<<"own@10.0.0.9">>, 1)),
    {left_out, Full} = ?V:looked_up(<<"bar@10.0.0.2">>, check, answer(1, 1.0), 0, View),
    ?assertEqual(1, ?V:left_out(Full)).

some_are_never_dialled_test_() ->
    Own = <<"own@10.0.0.9">>,
    R = registration(),
    [?_assertEqual(ok, redgrid_dial:allowed(R, Own)),
     ?_assertEqual(ok, redgrid_dial:allowed(R#{port := unknown}, Own)),
     ?_assertEqual({refused, no_port}, redgrid_dial:allowed(R#{port := 0}, Own)),
     ?_assertEqual({refused, other_proto}, redgrid_dial:allowed(R#{proto := <<"tls">>}, Own)),
     ?_assertEqual(ok, redgrid_dial:allowed(R#{proto := <<"tls">>, classic := true}, Own)),
     ?_assertEqual({refused, other_name_style}, redgrid_dial:allowed(R#{node := <<"foo@box">>}, Own))]
        ++ [?_assertEqual({refused, forbidden_address}, redgrid_dial:allowed(R#{ip := Ip}, Own))
            || Ip <- [<<"224.0.0.1">>, <<"169.254.1.1">>, <<"0.0.0.0">>, <<"255.255.255.255">>, <<"fe80::1">>, <<"ff02::1">>]].
