-- search.db, which can be made again at any time. Results go by their seq into shards of equal
-- ranges, each a table of words and one of trigrams: `_of_0` stands for `_of_` and the number.

-- name: create_state
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    form INTEGER NOT NULL,
    timeline TEXT NOT NULL,
    seq INTEGER NOT NULL,
    digest BLOB,
    deletion_id INTEGER NOT NULL
) STRICT

-- name: create_shards
CREATE TABLE shards (
    shard INTEGER PRIMARY KEY,
    is_unclean INTEGER NOT NULL DEFAULT 0
) STRICT

-- name: insert_state
INSERT INTO state (only, form, timeline, seq, digest, deletion_id)
VALUES (1, :form, :timeline, 0, NULL, :deletion_id)

-- name: select_state
SELECT form, timeline, seq, digest, deletion_id FROM state

-- name: update_state
UPDATE state SET seq = :seq, digest = coalesce(:digest, digest), deletion_id = :deletion_id

-- name: select_shards
SELECT shard FROM shards WHERE NOT is_unclean & 8 ORDER BY shard DESC

-- What is begun is ended first. Of the others any: one that is soiled again and again does not hold up the rest.
-- name: select_unclean
SELECT shard, is_unclean FROM shards WHERE is_unclean & :wanted OR shard < :gone
ORDER BY is_unclean & :begun <> 0 DESC, random() LIMIT 1

-- name: mark_shard
UPDATE shards SET is_unclean = :is_unclean WHERE shard = :shard

-- name: soil_shard
UPDATE shards SET is_unclean = is_unclean | :why WHERE shard = :shard

-- name: soil_clean_shard
UPDATE shards SET is_unclean = :why WHERE shard = :shard AND is_unclean = 0

-- name: insert_shard
INSERT INTO shards (shard) VALUES (:shard)

-- name: create_words
CREATE VIRTUAL TABLE words_of_0 USING fts5 (
    prompt, answer, content = '', contentless_delete = 1, tokenize = 'ascii')

-- name: create_trigrams
CREATE VIRTUAL TABLE trigrams_of_0 USING fts5 (
    text, content = '', contentless_delete = 1, detail = none,
    tokenize = 'trigram case_sensitive 1')

-- name: spare_words
INSERT INTO words_of_0 (words_of_0, rank) VALUES ('deletemerge', 0)

-- name: spare_trigrams
INSERT INTO trigrams_of_0 (trigrams_of_0, rank) VALUES ('deletemerge', 0)

-- name: insert_words
INSERT INTO words_of_0 (rowid, prompt, answer) VALUES (:seq, :prompt, :answer)

-- name: insert_trigrams
INSERT INTO trigrams_of_0 (rowid, text) VALUES (:seq, :text)

-- name: delete_words
DELETE FROM words_of_0 WHERE rowid = ?

-- name: delete_trigrams
DELETE FROM trigrams_of_0 WHERE rowid = ?

-- name: set_automerge_words
INSERT INTO words_of_0 (words_of_0, rank) VALUES ('automerge', :pieces)

-- name: set_automerge_trigrams
INSERT INTO trigrams_of_0 (trigrams_of_0, rank) VALUES ('automerge', :pieces)

-- What waits in memory is written before a savepoint.
-- name: flush
SAVEPOINT flush

-- name: flushed
RELEASE flush

-- name: merge_words
INSERT INTO words_of_0 (words_of_0, rank) VALUES ('merge', :pages)

-- name: merge_trigrams
INSERT INTO trigrams_of_0 (trigrams_of_0, rank) VALUES ('merge', :pages)

-- name: structure_of_words
SELECT block FROM words_of_0_data WHERE id = 10

-- name: structure_of_trigrams
SELECT block FROM trigrams_of_0_data WHERE id = 10

-- name: thin_words
DELETE FROM words_of_0_data WHERE id IN (SELECT id FROM words_of_0_data LIMIT :pages)

-- name: thin_trigrams
DELETE FROM trigrams_of_0_data WHERE id IN (SELECT id FROM trigrams_of_0_data LIMIT :pages)

-- name: drop_words
DROP TABLE words_of_0

-- name: drop_trigrams
DROP TABLE trigrams_of_0

-- name: delete_shard
DELETE FROM shards WHERE shard = :shard
