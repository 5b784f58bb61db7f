-- Questions that are asked again.

CREATE TABLE queries ( -- SQL by name, for `edge-store query @NAME`.
    name TEXT NOT NULL PRIMARY KEY, -- as it is asked for, without the @
    at INTEGER NOT NULL, -- UTC ms: when it was saved
    sql TEXT NOT NULL -- the statement
) STRICT;
