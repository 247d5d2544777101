%% @doc The OTP application `redgrid'.
%%
%% It refuses to start on a node that is not distributed: there would be nobody to find, and no name to be found under.
-module(redgrid_app).
-behaviour(application).

-export([start/2, stop/1]).

%% @private
-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    case redgrid_sup:start_link() of
        {ok, Pid} -> {ok, Pid};
        {error, {shutdown, {failed_to_start_child, redgrid, Reason}}} -> {error, Reason};
        {error, Reason} -> {error, Reason};
        ignore -> {error, ignore}
    end.

%% @private
-spec stop(term()) -> ok.
stop(_State) ->
    ok.
