-- What was forgotten before it was a result, or beside one: its tombstones. Those of results are in
-- deletions.

CREATE TABLE forgotten ( -- Goes to every copy, as the rows of deletions with the reason forget do.
    forgotten_no INTEGER PRIMARY KEY AUTOINCREMENT, -- order
    at INTEGER NOT NULL, -- UTC ms
    what TEXT NOT NULL CHECK (what IN ('request', 'response', 'conversation', 'lines')), -- a queued request, a response without a result, a conversation with its items, lines of an uploaded or made file
    id TEXT NOT NULL -- its id; of a file the SHA-256 that it is named by
) STRICT;
