%% @doc Atoms made out of text from Redis: at most 10,000 in the life of this Erlang node.
%%
%% Atoms are never collected, so whoever can write to Redis could fill the atom table and end the node. An atom that
%% exists already costs nothing and is always given.
-module(redgrid_atoms).

-export([from_text/1]).

-define(MAX, 10000).

%% @doc The atom of a text, or `error' when it is no atom or the bound is reached.
-spec from_text(binary()) -> {ok, atom()} | error.
from_text(Text) ->
    try
        {ok, binary_to_existing_atom(Text, utf8)}
    catch
        error:badarg -> create(Text)
    end.

create(Text) ->
    Count = counter(),
    case atomics:add_get(Count, 1, 1) =< ?MAX of
        true ->
            try
                {ok, binary_to_atom(Text, utf8)}
            catch
                error:_ -> error
            end;
        false ->
            %% Stays at the bound however often it is asked.
            atomics:put(Count, 1, ?MAX),
            error
    end.

%% Outlives the process redgrid: a restart must not begin a new count.
counter() ->
    case persistent_term:get(?MODULE, undefined) of
        undefined ->
            Count = atomics:new(1, []),
            persistent_term:put(?MODULE, Count),
            Count;
        Count ->
            Count
    end.
