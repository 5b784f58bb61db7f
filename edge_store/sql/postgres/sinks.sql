-- What the sink of kind `postgres` asks its server.

-- name: create_table
CREATE TABLE IF NOT EXISTS sglang_inference_results (
    request_id text PRIMARY KEY,
    model_name text,
    prompt text,
    output_data text,
    generated_tokens integer,
    latency_ms double precision,
    created_at timestamptz NOT NULL
)

-- name: insert_row
INSERT INTO sglang_inference_results
    (request_id, model_name, prompt, output_data, generated_tokens, latency_ms, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (request_id) DO NOTHING
