-module(redgrid_registration_tests).
-include_lib("eunit/include/eunit.hrl").
-export([registration/0]).
-define(R, redgrid_registration).

registration() ->
    #{node => <<"foo@10.0.0.1">>, ip => <<"10.0.0.1">>, ip6 => <<>>, port => 4000, proto => <<"tcp">>, creation => 7,
      impl => <<"test">>, started_at => 5, hidden => false, status => <<"up">>, classic => false,
      meta => [{<<"weight">>, <<"i">>, <<"0">>}]}.

keys_are_those_of_the_contract_test() ->
    Scope = {<<"d">>, <<"v">>},
    ?assertEqual(<<"redgrid:d:v:foo@h">>, ?R:classic_key(Scope, <<"foo@h">>)),
    ?assertEqual(<<"redgrid.info:d:v:foo@h">>, ?R:info_key(Scope, <<"foo@h">>)),
    ?assertEqual(<<"redgrid.index:d:v">>, ?R:index_key(Scope)),
    ?assertEqual(<<"redgrid:d:v">>, ?R:channel(Scope)),
    ?assertEqual(<<"redgrid.events:d:v">>, ?R:events_channel(Scope)),
    ?assertEqual(<<"redgrid.scan:d:v">>, ?R:scan_key(Scope)),
    ?assertEqual(<<"redgrid:::foo@h">>, ?R:classic_key({<<>>, <<>>}, <<"foo@h">>)),
    ?assertEqual(<<"redgrid:\\*:\\[a\\]:*">>, ?R:scan_pattern({<<"*">>, <<"[a]">>})).

a_key_of_another_scope_is_never_ours_test_() ->
    Empty = {<<>>, <<>>},
    [?_assertEqual({ok, <<"foo@h">>}, ?R:node_of_key(Empty, <<"redgrid:::foo@h">>)),
     ?_assertEqual(other_scope, ?R:node_of_key(Empty, <<"redgrid::2:foo@h">>)),
     ?_assertEqual(other_scope, ?R:node_of_key(Empty, <<"redgrid:d::foo@h">>)),
     ?_assertEqual(other_scope, ?R:node_of_key(Empty, <<"redgrid.info:::foo@h">>)),
     %% The domain ":" of an empty version.
     ?_assertEqual(bad_name, ?R:node_of_key(Empty, ?R:classic_key({<<":">>, <<>>}, <<"foo@h">>))),
     ?_assertEqual({ok, <<"foo@h">>}, ?R:node_of_key({<<":">>, <<"1:2">>}, <<"redgrid:::1:2:foo@h">>)),
     ?_assertEqual(bad_name, ?R:node_of_key(Empty, <<"redgrid:::foo">>))].

what_is_no_node_name_is_refused_test_() ->
    [?_assertNot(?R:valid_node(Name))
     || Name <- [<<>>, <<"foo">>, <<"@h">>, <<"foo@">>, <<"a@b@c">>, <<"a b@c">>, <<"a@b\n">>, <<"a\0@b">>,
                 <<"a@", 200>>, <<(binary:copy(<<"a">>, 254))/binary, "@h">>]]
        ++ [?_assert(?R:valid_node(Name)) || Name <- [<<"a@b">>, <<"web.1@10.0.0.1">>, <<"a@::1">>]].

a_registration_is_read_back_as_it_was_written_test() ->
    Commands = ?R:register({<<>>, <<>>}, registration(), 1000, [key]),
    ?assertMatch([["MULTI"] | _], Commands),
    ?assertEqual(["EXEC"], lists:last(Commands)),
    [Classic, Info] = [[to_binary(Part) || Part <- Fields] || ["HSET", _ | Fields] <- Commands],
    %% Nothing but ip and the meta goes into the classic hash.
    ?assertEqual([<<"ip">>, <<"10.0.0.1">>, <<"weight">>, <<"0">>], Classic),
    ?assertEqual({ok, registration()}, ?R:of_redis(<<"foo@10.0.0.1">>, Classic, Info)),
    ?assertMatch([_], [Key || ["PUBLISH", <<"redgrid::">>, Key] <- Commands, Key =:= <<"redgrid:::foo@10.0.0.1">>]),
    ?assertMatch([_], [S || ["ZADD", <<"redgrid.index::">>, S, _] <- Commands, S =:= 61000]).

to_binary(Int) when is_integer(Int) -> integer_to_binary(Int);
to_binary(Data) -> iolist_to_binary(Data).

a_classic_registration_has_its_meta_as_binaries_test() ->
    {ok, Read} = ?R:of_redis(<<"foo@h">>, [<<"weight">>, <<"0">>, <<"ip">>, <<"10.0.0.1">>], []),
    ?assertMatch(#{classic := true, ip := <<"10.0.0.1">>, port := unknown, meta := [{<<"weight">>, <<"b">>, <<"0">>}]}, Read).

a_hash_without_ip_or_no_hash_is_no_member_test() ->
    ?assertMatch({error, _}, ?R:of_redis(<<"foo@h">>, [<<"a">>, <<"b">>], [])),
    ?assertMatch({error, _}, ?R:of_redis(<<"foo@h">>, {error, <<"WRONGTYPE Operation">>}, [])),
    ?assertMatch({error, _}, ?R:of_redis(<<"foo@h">>, [<<"a">>], [])),
    ?assertEqual(none, ?R:of_redis(<<"foo@h">>, [], [])),
    ?assertEqual(none, ?R:of_redis(<<"foo@h">>, [], [<<"status">>, <<"up">>])),
    ?assertMatch({ok, #{status := <<"suspended">>}},
                 ?R:of_redis(<<"foo@h">>, [], [<<"status">>, <<"suspended">>])).

an_event_carries_the_whole_registration_test() ->
    Bytes = ?R:encode_event(<<"meta">>, registration(), <<"foo@10.0.0.1">>, 99),
    {ok, Event} = ?R:decode_event(Bytes),
    ?assertEqual(#{event => <<"meta">>, node => <<"foo@10.0.0.1">>, by => <<"foo@10.0.0.1">>, at => 99,
                   registration => registration()}, Event),
    Map = binary_to_term(Bytes),
    ?assertMatch(#{<<"v">> := 1, <<"hidden">> := <<"false">>, <<"port">> := 4000, <<"creation">> := 7}, Map),
    {ok, Later} = ?R:decode_event(term_to_binary(Map#{<<"v">> := 2, <<"more">> => <<"?">>})),
    ?assertEqual(Event, Later).

rubbish_on_the_events_channel_is_no_event_test_() ->
    [?_assertEqual(error, ?R:decode_event(Bytes))
     || Bytes <- [<<"hello">>, <<131>>, term_to_binary(#{<<"event">> => <<"joined">>}),
                  term_to_binary(#{<<"event">> => <<"joined">>, <<"node">> => <<"no name">>}),
                  term_to_binary(#{<<"event">> => joined, <<"node">> => <<"a@b">>}),
                  term_to_binary(#{<<"event">> => <<"joined">>, <<"node">> => <<"a@b">>, <<"x">> => binary:copy(<<0>>, 600000)})]].

a_random_change_of_a_message_never_crashes_the_reader_test() ->
    Bytes = ?R:encode_event(<<"meta">>, registration(), <<"foo@10.0.0.1">>, 99),
    lists:foreach(fun(_) ->
                          At = rand:uniform(byte_size(Bytes)) - 1,
                          <<Before:At/binary, _, After/binary>> = Bytes,
                          case ?R:decode_event(<<Before/binary, (rand:uniform(256) - 1), After/binary>>) of
                              error -> ok;
                              {ok, #{event := _, registration := #{node := _}}} -> ok
                          end
                  end, lists:seq(1, 2000)).
