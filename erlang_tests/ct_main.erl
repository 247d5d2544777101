%% Runs the suites in this directory and says in plain lines what happened: what `tests/tools/ct`
%% starts. Lines that begin with "ct: " are for people; all else goes into the log.
%%
%% It exits 0 only when at least one test ran and none failed. A test that Common Test skips of
%% its own accord (its init failed) did not pass, so it counts as failed.
-module(ct_main).

-export([main/0]).
-export([init/2, post_end_per_testcase/5, on_tc_fail/4, on_tc_skip/4]). % a Common Test hook

-define(MINUTES, 30).

main() ->
    launch:hold(),
    Suites = init:get_plain_arguments(),
    Ebin = filename:dirname(code:which(?MODULE)),
    {ok, _} = timer:apply_after(?MINUTES * 60000, erlang, apply,
                                [fun() -> say("FAILED: not done after ~b minutes", [?MINUTES]), halt(1) end, []]),
    Result = ct:run_test([{dir, Ebin}, {suite, [list_to_atom(Suite) || Suite <- Suites]},
                          {auto_compile, false}, {logdir, os:getenv("REDGRID_CT_LOGS")},
                          {basic_html, true}, {ct_hooks, [?MODULE]}]),
    case Result of
        {Passed, Failed, {Skipped, Undone}} ->
            say("~b passed, ~b failed, ~b skipped", [Passed, Failed + Undone, Skipped]),
            _ = [say("FAILED: not one test ran", []) || Passed + Failed + Undone =:= 0],
            halt(case Passed > 0 andalso Failed + Undone =:= 0 of true -> 0; false -> 1 end);
        Other ->
            say("FAILED: Common Test could not run: ~tp", [Other]),
            halt(1)
    end.

say(Format, Args) ->
    %% Standard error is not one of the streams that Common Test redirects.
    io:format(standard_error, "ct: " ++ Format ++ "~n", Args).

%% ---------------------------------------------------------------- the hook

init(_, _) -> {ok, none}.

post_end_per_testcase(Suite, Case, Config, Return, State) ->
    case proplists:get_value(tc_status, Config) of
        ok -> say("  ok      ~s: ~ts", [Suite, words(in_group(Case, Config))]);
        _ -> ok % on_tc_fail or on_tc_skip tells
    end,
    {Return, State}.

on_tc_fail(Suite, Case, Why, State) ->
    say("  FAILED  ~s: ~ts~n~ts", [Suite, words(Case), indent(Why)]),
    State.

on_tc_skip(Suite, Case, {tc_user_skip, Why}, State) ->
    say("  skipped ~s: ~ts~n~ts", [Suite, words(Case), indent(Why)]),
    State;
on_tc_skip(Suite, Case, {tc_auto_skip, {failed, {_, Init, _}}}, State) when Init =:= init_per_suite; Init =:= init_per_group ->
    say("  NOT RUN ~s: ~ts, since ~s failed", [Suite, words(Case), Init]),
    State;
on_tc_skip(Suite, Case, {_, Why}, State) ->
    say("  NOT RUN ~s: ~ts~n~ts", [Suite, words(Case), indent(Why)]),
    State.

in_group(Case, Config) ->
    case proplists:get_value(name, proplists:get_value(tc_group_properties, Config, [])) of
        undefined -> Case;
        Group -> {Case, Group}
    end.

words({Case, Group}) -> [words(Case), " (", words(Group), ")"];
words(Case) -> string:replace(atom_to_list(Case), "_", " ", all).

indent(Why) ->
    Lines = string:split(io_lib:format("~tp", [Why]), "\n", all),
    lists:join("\n", [["ct:           ", Line] || Line <- Lines]).
