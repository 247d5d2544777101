-module(redgrid_redis_tests).
-include_lib("eunit/include/eunit.hrl").
-define(S, redgrid_test_servers).

resp_is_read_however_it_is_cut_test() ->
    Bytes = <<"*4\r\n$3\r\nfoo\r\n:-7\r\n$-1\r\n*2\r\n+OK\r\n-ERR no\r\n">>,
    Reply = [<<"foo">>, -7, undefined, [<<"OK">>, {error, <<"ERR no">>}]],
    ?assertEqual({ok, Reply, <<"rest">>}, redgrid_resp:parse(<<Bytes/binary, "rest">>)),
    [begin
         <<Part:Size/binary, _/binary>> = Bytes,
         ?assertMatch({more, _}, redgrid_resp:parse(Part))
     end || Size <- lists:seq(0, byte_size(Bytes) - 1)].

what_is_no_resp_is_an_error_test_() ->
    [?_assertMatch({error, _}, redgrid_resp:parse(Bytes))
     || Bytes <- [<<"HTTP/1.1 400 Bad Request\r\n">>, <<"$99999999999\r\n">>, <<"*2000000\r\n">>, <<":x\r\n">>, <<"\r\n">>,
                  <<"$1\r\nabc">>, binary:copy(<<"*1\r\n">>, 20), binary:copy(<<"+">>, 70000), <<"$-2\r\n">>]].

random_bytes_never_crash_the_reader_test() ->
    [case redgrid_resp:parse(<<(lists:nth(rand:uniform(5), "+-:$*")), (rand:bytes(rand:uniform(20)))/binary, "\r\n">>) of
         {ok, _, _} -> ok;
         {more, _} -> ok;
         {error, _} -> ok
     end || _ <- lists:seq(1, 5000)].

urls_test_() ->
    Parse = fun(Url) ->
                    case redgrid_redis:parse_url(Url) of
                        {ok, #{host := H, port := P, db := D, user := U, password := F}} -> {H, P, D, U, F()};
                        {error, _} -> error
                    end
            end,
    [?_assertEqual(Expected, Parse(Url))
     || {Url, Expected} <- [{"redis://127.0.0.1:6379/", {"127.0.0.1", 6379, 0, "", ""}},
                            {<<"redis://h">>, {"h", 6379, 0, "", ""}},
                            {"redis://:pw@h:1/3", {"h", 1, 3, "", "pw"}},
                            {"redis://u:p%40%3A@h:1/", {"h", 1, 0, "u", "p@:"}},
                            {"redis://[::1]:7/", {"::1", 7, 0, "", ""}},
                            {"rediss://h/", error}, {"http://h/", error}, {"redis:///", error}, {"redis://h/x", error},
                            {"redis://h:99999/", error}, {"6379", error}, {"", error}]].

no_error_and_no_state_shows_the_password_test() ->
    {ok, Address} = redgrid_redis:parse_url("redis://u:s3cret@h:1/"),
    ?assertEqual(nomatch, string:find(io_lib:format("~p ~s", [Address, redgrid_redis:where(Address)]), "s3cret")),
    {error, Why} = redgrid_redis:parse_url("redis://u:s3cret@h:1/nodb"),
    ?assertEqual(nomatch, string:find(Why, "s3cret")).

against_a_real_redis_test_() ->
    {setup, fun() -> ?S:redis() end, fun ?S:stop/1,
     fun(Server) ->
             [{"replies come in order and as they are", fun() -> replies(Server) end},
              {"large values pass", fun() -> large(Server) end},
              {"messages of a channel arrive", fun() -> messages(Server) end},
              {"another database is another database", fun() -> databases(Server) end},
              {"an owner never waits", fun() -> asynchronous(Server) end},
              {"too many commands are refused", fun() -> overload(Server) end}]
     end}.

connect(Server) -> connect(Server, "").

connect(Server, Path) ->
    {ok, Address} = redgrid_redis:parse_url(?S:url(Server) ++ Path),
    {ok, Pid} = redgrid_redis:start_link(Address, self()),
    receive {redgrid_redis, Pid, up} -> Pid after 5000 -> error(not_up) end.

close(Pid) ->
    unlink(Pid),
    redgrid_redis:stop(Pid).

replies(Server) ->
    C = connect(Server),
    ?assertEqual([<<"OK">>, <<"1">>, 2, undefined],
                 redgrid_redis:pipeline(C, [["SET", "r", 1], ["GET", "r"], ["INCR", "r"], ["GET", "none"]])),
    ?assertMatch([{error, <<"ERR unknown command", _/binary>>}, [<<"OK">>]],
                 [redgrid_redis:cmd(C, ["NOSUCH"]),
                  lists:last(redgrid_redis:pipeline(C, [["MULTI"], ["SET", "r", "x"], ["EXEC"]]))]),
    close(C).

large(Server) ->
    C = connect(Server),
    Value = rand:bytes(5000000),
    ?assertEqual(<<"OK">>, redgrid_redis:cmd(C, ["SET", "large", Value])),
    ?assertEqual([Value, <<"PONG">>], redgrid_redis:pipeline(C, [["GET", "large"], ["PING"]])),
    close(C).

messages(Server) ->
    Sub = connect(Server),
    C = connect(Server),
    ok = redgrid_redis:subscribe(Sub, ["one", "two"]),
    [receive {redgrid_redis, Sub, {subscribed, Name}} -> ok after 5000 -> error(Name) end || Name <- [<<"one">>, <<"two">>]],
    ?assertEqual(1, redgrid_redis:cmd(C, ["PUBLISH", "two", <<0, 1, "\r\n">>])),
    receive {redgrid_redis, Sub, {message, <<"two">>, Data}} -> ?assertEqual(<<0, 1, "\r\n">>, Data)
    after 5000 -> error(no_message) end,
    ?assertEqual({error, closed}, redgrid_redis:cmd(Sub, ["PING"])),
    close(Sub),
    close(C).

databases(Server) ->
    C = connect(Server),
    D = connect(Server, "3"),
    ?assertEqual(<<"OK">>, redgrid_redis:cmd(D, ["SET", "only in three", "x"])),
    ?assertEqual({undefined, <<"x">>},
                 {redgrid_redis:cmd(C, ["GET", "only in three"]), redgrid_redis:cmd(D, ["GET", "only in three"])}),
    close(C),
    close(D).

asynchronous(Server) ->
    C = connect(Server),
    [ok = redgrid_redis:send(C, N, [["ECHO", N], ["PING"]]) || N <- lists:seq(1, 500)],
    [receive {redgrid_redis, C, {reply, Tag, Replies}} ->
             ?assertEqual({N, [integer_to_binary(N), <<"PONG">>]}, {Tag, Replies})
     after 5000 -> error(N) end || N <- lists:seq(1, 500)],
    close(C).

overload(Server) ->
    C = connect(Server),
    ?assertEqual({error, overloaded}, redgrid_redis:pipeline(C, lists:duplicate(10001, ["PING"]))),
    ?assertEqual(<<"PONG">>, redgrid_redis:cmd(C, ["PING"])),
    close(C).

a_password_is_needed_and_given_test_() ->
    {setup, fun() -> ?S:redis([{args, ["--requirepass", "pa:ss"]}]) end, fun ?S:stop/1,
     fun(Server) ->
             Port = integer_to_list(?S:port(Server)),
             Try = fun(User) ->
                           process_flag(trap_exit, true),
                           {ok, A} = redgrid_redis:parse_url("redis://" ++ User ++ "127.0.0.1:" ++ Port ++ "/"),
                           {ok, Pid} = redgrid_redis:start_link(A, self()),
                           receive
                               {redgrid_redis, Pid, up} ->
                                   Reply = redgrid_redis:cmd(Pid, ["PING"]),
                                   close(Pid),
                                   Reply;
                               {'EXIT', Pid, Reason} -> Reason
                           after 5000 -> timeout
                           end
                   end,
             [?_assertEqual(<<"PONG">>, Try(":pa%3Ass@")),
              ?_assertEqual(<<"PONG">>, Try("default:pa%3Ass@")),
              ?_assertMatch({shutdown, {refused, <<"WRONGPASS", _/binary>>}}, Try(":wrong@")),
              ?_assertMatch({error, <<"NOAUTH", _/binary>>}, Try(""))]
     end}.

the_end_of_redis_ends_the_connection_test() ->
    process_flag(trap_exit, true),
    Server = ?S:redis(),
    C = connect(Server),
    ?S:stop(Server),
    receive {'EXIT', C, Reason} -> ?assertMatch({shutdown, _}, Reason) after 5000 -> error(still_there) end,
    {ok, Address} = redgrid_redis:parse_url(?S:url(Server)),
    {ok, D} = redgrid_redis:start_link(Address, self()),
    receive {'EXIT', D, Refused} -> ?assertEqual({shutdown, {connect, econnrefused}}, Refused)
    after 5000 -> error(still_there) end.

a_server_that_is_no_redis_is_left_test() ->
    process_flag(trap_exit, true),
    {ok, Listen} = gen_tcp:listen(0, [binary, {ip, {127, 0, 0, 1}}, {active, false}]),
    {ok, Port} = inet:port(Listen),
    {ok, Address} = redgrid_redis:parse_url("redis://127.0.0.1:" ++ integer_to_list(Port) ++ "/"),
    {ok, C} = redgrid_redis:start_link(Address, self()),
    {ok, Socket} = gen_tcp:accept(Listen, 5000),
    ok = redgrid_redis:send(C, tag, [["PING"]]),
    {ok, _} = gen_tcp:recv(Socket, 0, 5000),
    ok = gen_tcp:send(Socket, "SSH-2.0-OpenSSH_9\r\n"),
    receive {'EXIT', C, Reason} -> ?assertMatch({shutdown, {not_redis, _}}, Reason) after 5000 -> error(still_there) end,
    ok = gen_tcp:close(Listen).
