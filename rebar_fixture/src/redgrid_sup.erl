%% @doc The supervisor of the application: one worker, the process `redgrid'.
-module(redgrid_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

%% @doc Starts the supervisor, and with it the process `redgrid' with the meta of the application environment.
-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% @private
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    %% 5 s for the worker to delete its keys; a Redis that is away costs it 1 s at most.
    Child = #{id => redgrid, start => {redgrid, start_link, []}, restart => permanent, shutdown => 5000,
              type => worker, modules => [redgrid]},
    {ok, {#{strategy => one_for_one, intensity => 5, period => 30}, [Child]}}.
