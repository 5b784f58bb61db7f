-- How far each sink is that results are pushed to, and what it has refused.

CREATE TABLE sinks ( -- One row per sink that was ever begun.
    name TEXT PRIMARY KEY, -- as in edge-store.toml
    at INTEGER NOT NULL, -- UTC ms: when this row was written last
    timeline TEXT NOT NULL, -- of seq
    seq INTEGER NOT NULL, -- everything up to it was taken, refused, skipped, or is not wanted
    delivered INTEGER NOT NULL, -- how many results were taken
    skipped INTEGER NOT NULL, -- how many were deleted before their turn, or passed over by `sinks skip`
    orders INTEGER NOT NULL, -- how often an operator has retried or skipped: the daemon looks again then
    failure TEXT, -- why nothing is taken at present; NULL: it is
    failing_since INTEGER -- UTC ms: since when
) STRICT;

CREATE TABLE sink_letters ( -- Dead letters: results that a sink has refused for what they are.
    letter_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    name TEXT NOT NULL, -- the sink
    at INTEGER NOT NULL, -- UTC ms: when it was refused last
    seq INTEGER NOT NULL, -- the result's
    id TEXT NOT NULL, -- the result
    again INTEGER NOT NULL, -- 1 while it is to be sent again
    error TEXT NOT NULL -- why, without anything of the result
) STRICT;
CREATE INDEX sink_letters_by_name ON sink_letters (name, again);
