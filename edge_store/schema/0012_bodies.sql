-- An answer's text lies in the file once: in its output, and not in the response's bytes again.

-- before which byte of the response its first output's text has to be put in, as JSON's string; NULL: nothing was taken out
ALTER TABLE requests ADD COLUMN output_at INTEGER;

CREATE VIEW bodies AS -- The rows of requests, with the response's bytes as the engine sent them.
SELECT
    q.seq, q.input_text, q.request_body,
    CASE WHEN q.output_at IS NULL OR o.output_text IS NULL THEN q.response_body
         ELSE CAST(
             coalesce(substr(q.response_body, 1, q.output_at), '') -- of no bytes it is NULL
             || json_quote(o.output_text)
             || coalesce(substr(q.response_body, q.output_at + 1), '') AS BLOB)
         END AS response_body
FROM requests AS q
LEFT JOIN outputs AS o ON o.seq = q.seq AND o.choice_index = 0;
