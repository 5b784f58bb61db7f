-- The tables and rows that `llm` 0.27 itself writes for fill.txt, without those of its search.
CREATE TABLE [conversations] (
   [id] TEXT PRIMARY KEY,
   [name] TEXT,
   [model] TEXT
);
CREATE TABLE [attachments] (
   [id] TEXT PRIMARY KEY,
   [type] TEXT,
   [path] TEXT,
   [url] TEXT,
   [content] BLOB
);
CREATE TABLE [prompt_attachments] (
   [response_id] TEXT REFERENCES [responses]([id]),
   [attachment_id] TEXT REFERENCES [attachments]([id]),
   [order] INTEGER,
   PRIMARY KEY ([response_id], [attachment_id])
);
CREATE TABLE [schemas] (
   [id] TEXT PRIMARY KEY,
   [content] TEXT
);
CREATE TABLE "responses" (
   [id] TEXT PRIMARY KEY,
   [model] TEXT,
   [prompt] TEXT,
   [system] TEXT,
   [prompt_json] TEXT,
   [options_json] TEXT,
   [response] TEXT,
   [response_json] TEXT,
   [conversation_id] TEXT REFERENCES [conversations]([id]),
   [duration_ms] INTEGER,
   [datetime_utc] TEXT,
   [input_tokens] INTEGER,
   [output_tokens] INTEGER,
   [token_details] TEXT,
   [schema_id] TEXT REFERENCES [schemas]([id])
, [resolved_model] TEXT);
CREATE TABLE [fragments] (
   [id] INTEGER PRIMARY KEY,
   [hash] TEXT,
   [content] TEXT,
   [datetime_utc] TEXT,
   [source] TEXT
);
CREATE TABLE [fragment_aliases] (
   [alias] TEXT PRIMARY KEY,
   [fragment_id] INTEGER REFERENCES [fragments]([id])
);
CREATE TABLE "prompt_fragments" (
   [response_id] TEXT REFERENCES [responses]([id]),
   [fragment_id] INTEGER REFERENCES [fragments]([id]),
   [order] INTEGER,
   PRIMARY KEY ([response_id], [fragment_id], [order])
);
CREATE TABLE "system_fragments" (
   [response_id] TEXT REFERENCES [responses]([id]),
   [fragment_id] INTEGER REFERENCES [fragments]([id]),
   [order] INTEGER,
   PRIMARY KEY ([response_id], [fragment_id], [order])
);
CREATE TABLE [tools] (
   [id] INTEGER PRIMARY KEY,
   [hash] TEXT,
   [name] TEXT,
   [description] TEXT,
   [input_schema] TEXT
, [plugin] TEXT);
CREATE TABLE [tool_responses] (
   [tool_id] INTEGER REFERENCES [tools]([id]),
   [response_id] TEXT REFERENCES [responses]([id]),
   PRIMARY KEY ([tool_id], [response_id])
);
CREATE TABLE [tool_calls] (
   [id] INTEGER PRIMARY KEY,
   [response_id] TEXT REFERENCES [responses]([id]),
   [tool_id] INTEGER REFERENCES [tools]([id]),
   [name] TEXT,
   [arguments] TEXT,
   [tool_call_id] TEXT
);
CREATE TABLE [tool_instances] (
   [id] INTEGER PRIMARY KEY,
   [plugin] TEXT,
   [name] TEXT,
   [arguments] TEXT
);
CREATE TABLE "tool_results" (
   [id] INTEGER PRIMARY KEY,
   [response_id] TEXT REFERENCES [responses]([id]),
   [tool_id] INTEGER REFERENCES [tools]([id]),
   [name] TEXT,
   [output] TEXT,
   [tool_call_id] TEXT,
   [instance_id] INTEGER REFERENCES [tool_instances]([id])
, [exception] TEXT);
CREATE TABLE [tool_results_attachments] (
   [tool_result_id] INTEGER REFERENCES [tool_results]([id]),
   [attachment_id] TEXT REFERENCES [attachments]([id]),
   [order] INTEGER,
   PRIMARY KEY ([tool_result_id], [attachment_id])
);
INSERT INTO "attachments" VALUES('4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6','image/png',NULL,NULL,X'89504E470D0A1A0A');
INSERT INTO "conversations" VALUES('01m8n9pv628waptjm1vhswy12z','plain','told');
INSERT INTO "conversations" VALUES('01m8n9pv730rq96v7ng28wmfg8','first','told');
INSERT INTO "conversations" VALUES('01m8n9pv8vzya6e7mabq4v4smv','a dog','told');
INSERT INTO "conversations" VALUES('01m8n9pvakz8x9ya5pgwxh4p6s','a novel a novel a novel about it','told');
INSERT INTO "conversations" VALUES('01m8n9pvcc382xt5creptjegms','see','told');
INSERT INTO "conversations" VALUES('01m8n9pvct6g4t4dpa1bbf9ya7','shout','told');
INSERT INTO "fragments" VALUES(1,'bff5f68bcbbbc333c2e79068022d822d5169095858f4ec738cfb0837fdb3b706','a novel
a novel
a novel
','2026-11-30 03:59:18',NULL);
INSERT INTO "prompt_attachments" VALUES('01m8n9pvcbb2p4nqan2kz8rpzz','4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6',0);
INSERT INTO "prompt_fragments" VALUES('01m8n9pvakz8x9ya5pgwxh4p6r',1,0);
INSERT INTO "responses" VALUES('01m8n9pv628waptjm1vhswy12y','told','plain','be kind',NULL,'{"temperature": 0.5}','told: plain 你好',NULL,'01m8n9pv628waptjm1vhswy12z',0,'2026-11-30T03:59:18.722945+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pv730rq96v7ng28wmfg9','told','first',NULL,NULL,'{}','told: first 你好',NULL,'01m8n9pv730rq96v7ng28wmfg8',0,'2026-11-30T03:59:18.755860+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pv875egqrf354adxng5r','told','second',NULL,NULL,'{}','told: second 你好',NULL,'01m8n9pv730rq96v7ng28wmfg8',0,'2026-11-30T03:59:18.791858+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pv8vzya6e7mabq4v4smt','told','a dog',NULL,NULL,'{}','{"dog": "Rex"}',NULL,'01m8n9pv8vzya6e7mabq4v4smv',0,'2026-11-30T03:59:18.811845+00:00',7,3,NULL,'a8c34e144a92a48991d41742bced030c',NULL);
INSERT INTO "responses" VALUES('01m8n9pvakz8x9ya5pgwxh4p6r','told','about it',NULL,NULL,'{}','told: a novel
a novel
a no 你好',NULL,'01m8n9pvakz8x9ya5pgwxh4p6s',0,'2026-11-30T03:59:18.867773+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pvcbb2p4nqan2kz8rpzz','told','see',NULL,NULL,'{}','told: see 你好',NULL,'01m8n9pvcc382xt5creptjegms',0,'2026-11-30T03:59:18.923977+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pvcwrm76818sqfj9wemd','told','shout',NULL,NULL,'{}','',NULL,'01m8n9pvct6g4t4dpa1bbf9ya7',0,'2026-11-30T03:59:18.940382+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "responses" VALUES('01m8n9pvez9z2rffnnz8e30d22','told','',NULL,NULL,'{}','told:  你好',NULL,'01m8n9pvct6g4t4dpa1bbf9ya7',0,'2026-11-30T03:59:19.007836+00:00',7,3,NULL,NULL,NULL);
INSERT INTO "schemas" VALUES('a8c34e144a92a48991d41742bced030c','{"type":"object","properties":{"dog":{"type":"string"}}}');
INSERT INTO "tool_calls" VALUES(1,'01m8n9pvcwrm76818sqfj9wemd',1,'upper','{"text": "h\u00e9"}','c1');
INSERT INTO "tool_responses" VALUES(1,'01m8n9pvcwrm76818sqfj9wemd');
INSERT INTO "tool_responses" VALUES(1,'01m8n9pvez9z2rffnnz8e30d22');
INSERT INTO "tool_results" VALUES(1,'01m8n9pvez9z2rffnnz8e30d22',1,'upper','HÉ','c1',NULL,NULL);
INSERT INTO "tools" VALUES(1,'5fd38f7848348b80af84e63de270bb9d5d3f9210eded0c81bbbf59998271d02e','upper','Upper-case it.','{"properties": {"text": {"type": "string"}}, "required": ["text"], "type": "object"}',NULL);
