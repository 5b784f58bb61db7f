-- Responses and conversations. What a response became is its result; it is written here once only.

CREATE TABLE responses ( -- One row per response that is kept: what was asked. It goes with its result.
    response_no INTEGER PRIMARY KEY, -- order
    id TEXT NOT NULL UNIQUE, -- of the result that it becomes; `resp_` and this is the response's id
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    caller TEXT NOT NULL CHECK (json_valid(caller)), -- in whose name it runs, JSON
    background INTEGER NOT NULL, -- 1 if it runs without its caller
    conversation_id TEXT, -- the conversation it belongs to
    previous_id TEXT, -- the id of the result of the response it continues
    request BLOB NOT NULL, -- the body as the caller sent it, or what redaction leaves of it; but for what response_blobs has to be put in
    is_held INTEGER NOT NULL -- 1 if redaction took something out of one in the background: what was sent lies in `held/` beside the database until it has ended
) STRICT;

CREATE TABLE response_events ( -- What happened to a response in the background before there was a result, or in place of one.
    event_no INTEGER PRIMARY KEY, -- order
    id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE, -- of the response, without `resp_`
    at INTEGER NOT NULL, -- UTC ms
    event TEXT NOT NULL CHECK (event IN ('started', 'cancelled', 'failed')), -- a start is an attempt; the others are an end
    code TEXT, -- stable code of the error
    message TEXT -- its message
) STRICT;
CREATE INDEX response_events_by_id ON response_events (id, event_no);
-- What waits or runs in the background is found without a look at all that has ended.
CREATE INDEX responses_in_background ON responses (response_no) WHERE background;

CREATE TABLE conversations ( -- One row per conversation. Newer metadata is in annotations.
    conversation_id TEXT PRIMARY KEY, -- conv_ and a UUIDv7
    created_at INTEGER NOT NULL, -- UTC ms
    tenant TEXT, -- whose key
    metadata TEXT NOT NULL CHECK (json_valid(metadata)) -- the caller's, JSON
) STRICT;

CREATE TABLE conversation_entries ( -- What a conversation consists of, in order. The items of a response are in its request and its result, not here.
    entry_no INTEGER PRIMARY KEY, -- order
    conversation_id TEXT NOT NULL REFERENCES conversations (conversation_id) ON DELETE CASCADE, -- the conversation
    at INTEGER NOT NULL, -- UTC ms
    kind TEXT NOT NULL CHECK (kind IN ('item', 'response', 'removed')), -- an item that was added; all items of a response; an item of a response that was taken out
    id TEXT NOT NULL, -- of the item; of the response's result
    item TEXT CHECK (json_valid(item)), -- the item, JSON
    UNIQUE (conversation_id, id, kind)
) STRICT;
CREATE INDEX conversation_entries_in_order ON conversation_entries (conversation_id, entry_no);
