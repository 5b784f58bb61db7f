-- What is found: `results` is the box's own database, search_index is attached. `:condition` is
-- put in as text: it is a Selection's.

-- name: attach
ATTACH :file AS search_index

-- name: detach
DETACH search_index

-- name: find_words
SELECT w.rowid FROM search_index.words_of_0(:match) AS w CROSS JOIN results AS r ON r.seq = w.rowid
WHERE w.rowid <= :seq AND (:condition) ORDER BY w.rowid DESC

-- name: find_trigrams
SELECT w.rowid FROM search_index.trigrams_of_0(:match) AS w CROSS JOIN results AS r ON r.seq = w.rowid
WHERE w.rowid <= :seq AND (:condition) ORDER BY w.rowid DESC
