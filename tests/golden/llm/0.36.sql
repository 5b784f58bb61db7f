-- The tables and rows that `llm` 0.36 itself writes for fill.txt, without those of its search.
CREATE TABLE "conversations" (
   "id" TEXT PRIMARY KEY,
   "name" TEXT,
   "model" TEXT
);
CREATE TABLE "attachments" (
   "id" TEXT PRIMARY KEY,
   "type" TEXT,
   "path" TEXT,
   "url" TEXT,
   "content" BLOB
);
CREATE TABLE "prompt_attachments" (
   "response_id" TEXT REFERENCES "responses"("id"),
   "attachment_id" TEXT REFERENCES "attachments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("response_id", "attachment_id")
);
CREATE TABLE "schemas" (
   "id" TEXT PRIMARY KEY,
   "content" TEXT
);
CREATE TABLE "responses" (
   "id" TEXT PRIMARY KEY,
   "model" TEXT,
   "prompt" TEXT,
   "system" TEXT,
   "prompt_json" TEXT,
   "options_json" TEXT,
   "response" TEXT,
   "response_json" TEXT,
   "conversation_id" TEXT REFERENCES "conversations"("id"),
   "duration_ms" INTEGER,
   "datetime_utc" TEXT,
   "input_tokens" INTEGER,
   "output_tokens" INTEGER,
   "token_details" TEXT,
   "schema_id" TEXT REFERENCES "schemas"("id")
, "resolved_model" TEXT, "reasoning" TEXT);
CREATE TABLE "fragments" (
   "id" INTEGER PRIMARY KEY,
   "hash" TEXT,
   "content" TEXT,
   "datetime_utc" TEXT,
   "source" TEXT
);
CREATE TABLE "fragment_aliases" (
   "alias" TEXT PRIMARY KEY,
   "fragment_id" INTEGER REFERENCES "fragments"("id")
);
CREATE TABLE "prompt_fragments" (
   "response_id" TEXT REFERENCES "responses"("id"),
   "fragment_id" INTEGER REFERENCES "fragments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("response_id", "fragment_id", "order")
);
CREATE TABLE "system_fragments" (
   "response_id" TEXT REFERENCES "responses"("id"),
   "fragment_id" INTEGER REFERENCES "fragments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("response_id", "fragment_id", "order")
);
CREATE TABLE "tools" (
   "id" INTEGER PRIMARY KEY,
   "hash" TEXT,
   "name" TEXT,
   "description" TEXT,
   "input_schema" TEXT
, "plugin" TEXT);
CREATE TABLE "tool_responses" (
   "tool_id" INTEGER REFERENCES "tools"("id"),
   "response_id" TEXT REFERENCES "responses"("id"),
   PRIMARY KEY ("tool_id", "response_id")
);
CREATE TABLE "tool_calls" (
   "id" INTEGER PRIMARY KEY,
   "response_id" TEXT REFERENCES "responses"("id"),
   "tool_id" INTEGER REFERENCES "tools"("id"),
   "name" TEXT,
   "arguments" TEXT,
   "tool_call_id" TEXT
);
CREATE TABLE "tool_instances" (
   "id" INTEGER PRIMARY KEY,
   "plugin" TEXT,
   "name" TEXT,
   "arguments" TEXT
);
CREATE TABLE "tool_results" (
   "id" INTEGER PRIMARY KEY,
   "response_id" TEXT REFERENCES "responses"("id"),
   "tool_id" INTEGER REFERENCES "tools"("id"),
   "name" TEXT,
   "output" TEXT,
   "tool_call_id" TEXT,
   "instance_id" INTEGER REFERENCES "tool_instances"("id")
, "exception" TEXT);
CREATE TABLE "tool_results_attachments" (
   "tool_result_id" INTEGER REFERENCES "tool_results"("id"),
   "attachment_id" TEXT REFERENCES "attachments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("tool_result_id", "attachment_id")
);
CREATE TABLE "messages" (
   "hash" TEXT PRIMARY KEY,
   "parent_hash" TEXT REFERENCES "messages"("hash"),
   "role" TEXT,
   "provider_metadata" TEXT
);
CREATE TABLE "parts" (
   "id" INTEGER PRIMARY KEY,
   "message_hash" TEXT REFERENCES "messages"("hash"),
   "position" INTEGER,
   "type" TEXT,
   "tool_name" TEXT,
   "text" TEXT,
   "payload" TEXT
);
CREATE TABLE "part_attachments" (
   "part_id" INTEGER REFERENCES "parts"("id"),
   "attachment_id" TEXT REFERENCES "attachments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("part_id", "attachment_id", "order")
);
CREATE TABLE "part_fragments" (
   "part_id" INTEGER REFERENCES "parts"("id"),
   "fragment_id" INTEGER REFERENCES "fragments"("id"),
   "order" INTEGER,
   PRIMARY KEY ("part_id", "fragment_id", "order")
);
CREATE TABLE "threads" (
   "id" TEXT PRIMARY KEY,
   "name" TEXT,
   "tip_message_hash" TEXT REFERENCES "messages"("hash"),
   "forked_from" TEXT REFERENCES "threads"("id"),
   "datetime_utc" TEXT
);
CREATE TABLE "turns" (
   "id" TEXT PRIMARY KEY,
   "thread_id" TEXT REFERENCES "threads"("id"),
   "parent_message_hash" TEXT REFERENCES "messages"("hash"),
   "tip_message_hash" TEXT REFERENCES "messages"("hash"),
   "model" TEXT,
   "resolved_model" TEXT,
   "options_json" TEXT,
   "schema_id" TEXT REFERENCES "schemas"("id"),
   "input_tokens" INTEGER,
   "output_tokens" INTEGER,
   "token_details" TEXT,
   "duration_ms" INTEGER,
   "datetime_utc" TEXT
, "response_json" TEXT);
CREATE TABLE "turn_fragments" (
   "turn_id" TEXT REFERENCES "turns"("id"),
   "fragment_id" INTEGER REFERENCES "fragments"("id"),
   "order" INTEGER,
   "kind" TEXT,
   PRIMARY KEY ("turn_id", "fragment_id", "kind", "order")
);
CREATE TABLE "turn_search" (
   "id" INTEGER PRIMARY KEY,
   "turn_id" TEXT REFERENCES "turns"("id"),
   "prompt" TEXT,
   "response" TEXT
);
CREATE TABLE "turn_tools" (
   "turn_id" TEXT REFERENCES "turns"("id"),
   "tool_id" INTEGER REFERENCES "tools"("id"),
   "instance_id" INTEGER REFERENCES "tool_instances"("id"),
   PRIMARY KEY ("turn_id", "tool_id")
);
CREATE TABLE "tool_instantiations" (
   "turn_id" TEXT REFERENCES "turns"("id"),
   "tool_call_id" TEXT,
   "instance_id" INTEGER REFERENCES "tool_instances"("id"),
   PRIMARY KEY ("turn_id", "tool_call_id")
);
INSERT INTO "attachments" VALUES('4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6','image/png',NULL,NULL,X'89504E470D0A1A0A');
INSERT INTO "fragments" VALUES(1,'bff5f68bcbbbc333c2e79068022d822d5169095858f4ec738cfb0837fdb3b706','a novel
a novel
a novel
','2026-11-30 03:59:02',NULL);
INSERT INTO "messages" VALUES('b2:cc9b8ee94a30a3e6030c08b081856cee',NULL,'system',NULL);
INSERT INTO "messages" VALUES('b2:3f7b2bb7b4da2cbbd9c2f2c477996aa9','b2:cc9b8ee94a30a3e6030c08b081856cee','user',NULL);
INSERT INTO "messages" VALUES('b2:d30f16fc78ff653b51bad0aa6a2cd09a','b2:3f7b2bb7b4da2cbbd9c2f2c477996aa9','assistant',NULL);
INSERT INTO "messages" VALUES('b2:1eac5c295fd60e397249a317497dd746',NULL,'user',NULL);
INSERT INTO "messages" VALUES('b2:0d70ed223afc811014979ea401312bb5','b2:1eac5c295fd60e397249a317497dd746','assistant',NULL);
INSERT INTO "messages" VALUES('b2:f93df366f5e5f4fe12a8a71d61f7ea5e','b2:0d70ed223afc811014979ea401312bb5','user',NULL);
INSERT INTO "messages" VALUES('b2:bc13e5c71f9aa59f91ef362a526114ba','b2:f93df366f5e5f4fe12a8a71d61f7ea5e','assistant',NULL);
INSERT INTO "messages" VALUES('b2:7bc2ae4cd9c94349698d5afdf1856d4f',NULL,'user',NULL);
INSERT INTO "messages" VALUES('b2:9ff54103626883d64961c6e629e88292','b2:7bc2ae4cd9c94349698d5afdf1856d4f','assistant',NULL);
INSERT INTO "messages" VALUES('b2:f46622abdc3dd9bd0a746f967dd26b9e',NULL,'user',NULL);
INSERT INTO "messages" VALUES('b2:014ee641d54726ab13757c00c4ae2d11','b2:f46622abdc3dd9bd0a746f967dd26b9e','assistant',NULL);
INSERT INTO "messages" VALUES('b2:a0fe6c7c0918e686ecd1f1da197640d2',NULL,'user',NULL);
INSERT INTO "messages" VALUES('b2:b891a21dc2380190982bc0793d364f09','b2:a0fe6c7c0918e686ecd1f1da197640d2','assistant',NULL);
INSERT INTO "messages" VALUES('b2:2fa26e4c4b6096cf91f50e75fee91329',NULL,'user',NULL);
INSERT INTO "messages" VALUES('b2:f7f8adfddb693b8135de14fbc7bb0ed3','b2:2fa26e4c4b6096cf91f50e75fee91329','assistant',NULL);
INSERT INTO "messages" VALUES('b2:c00002c2ce1a2dc8495a394cd87eb4dc','b2:f7f8adfddb693b8135de14fbc7bb0ed3','tool',NULL);
INSERT INTO "messages" VALUES('b2:46686f9042041e67857e10a1ac13dcdf','b2:c00002c2ce1a2dc8495a394cd87eb4dc','assistant',NULL);
INSERT INTO "part_attachments" VALUES(13,'4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6',0);
INSERT INTO "part_fragments" VALUES(10,1,0);
INSERT INTO "parts" VALUES(1,'b2:cc9b8ee94a30a3e6030c08b081856cee',0,'text',NULL,'be kind',NULL);
INSERT INTO "parts" VALUES(2,'b2:3f7b2bb7b4da2cbbd9c2f2c477996aa9',0,'text',NULL,'plain',NULL);
INSERT INTO "parts" VALUES(3,'b2:d30f16fc78ff653b51bad0aa6a2cd09a',0,'text',NULL,'told: plain 你好',NULL);
INSERT INTO "parts" VALUES(4,'b2:1eac5c295fd60e397249a317497dd746',0,'text',NULL,'first',NULL);
INSERT INTO "parts" VALUES(5,'b2:0d70ed223afc811014979ea401312bb5',0,'text',NULL,'told: first 你好',NULL);
INSERT INTO "parts" VALUES(6,'b2:f93df366f5e5f4fe12a8a71d61f7ea5e',0,'text',NULL,'second',NULL);
INSERT INTO "parts" VALUES(7,'b2:bc13e5c71f9aa59f91ef362a526114ba',0,'text',NULL,'told: second 你好',NULL);
INSERT INTO "parts" VALUES(8,'b2:7bc2ae4cd9c94349698d5afdf1856d4f',0,'text',NULL,'a dog',NULL);
INSERT INTO "parts" VALUES(9,'b2:9ff54103626883d64961c6e629e88292',0,'text',NULL,'{"dog": "Rex"}',NULL);
INSERT INTO "parts" VALUES(10,'b2:f46622abdc3dd9bd0a746f967dd26b9e',0,'text',NULL,NULL,'{"text_ref": [{"fragment": 1}, {"literal": "\nabout it"}]}');
INSERT INTO "parts" VALUES(11,'b2:014ee641d54726ab13757c00c4ae2d11',0,'text',NULL,'told: a novel
a novel
a no 你好',NULL);
INSERT INTO "parts" VALUES(12,'b2:a0fe6c7c0918e686ecd1f1da197640d2',0,'text',NULL,'see',NULL);
INSERT INTO "parts" VALUES(13,'b2:a0fe6c7c0918e686ecd1f1da197640d2',1,'attachment',NULL,NULL,'{"attachment": {"id": "4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6"}}');
INSERT INTO "parts" VALUES(14,'b2:b891a21dc2380190982bc0793d364f09',0,'text',NULL,'told: see 你好',NULL);
INSERT INTO "parts" VALUES(15,'b2:2fa26e4c4b6096cf91f50e75fee91329',0,'text',NULL,'shout',NULL);
INSERT INTO "parts" VALUES(16,'b2:f7f8adfddb693b8135de14fbc7bb0ed3',0,'tool_call','upper',NULL,'{"name": "upper", "arguments": {"text": "h\u00e9"}, "tool_call_id": "c1"}');
INSERT INTO "parts" VALUES(17,'b2:c00002c2ce1a2dc8495a394cd87eb4dc',0,'tool_result','upper',NULL,'{"name": "upper", "output": "H\u00c9", "tool_call_id": "c1"}');
INSERT INTO "parts" VALUES(18,'b2:46686f9042041e67857e10a1ac13dcdf',0,'text',NULL,'told:  你好',NULL);
INSERT INTO "schemas" VALUES('a8c34e144a92a48991d41742bced030c','{"type":"object","properties":{"dog":{"type":"string"}}}');
INSERT INTO "threads" VALUES('01m8n9pawe90z2s9cxg4zxe7km','plain','b2:d30f16fc78ff653b51bad0aa6a2cd09a',NULL,'2026-11-30 03:59:02.031131+00:00');
INSERT INTO "threads" VALUES('01m8n9pay1jd8dha8p51zjfab3','first','b2:bc13e5c71f9aa59f91ef362a526114ba',NULL,'2026-11-30 03:59:02.082475+00:00');
INSERT INTO "threads" VALUES('01m8n9pb04d2z1mk7933rtmyxe','a dog','b2:9ff54103626883d64961c6e629e88292',NULL,'2026-11-30 03:59:02.148282+00:00');
INSERT INTO "threads" VALUES('01m8n9pb1c196c5wawrdbn2n1v','a novel a novel a novel about it','b2:014ee641d54726ab13757c00c4ae2d11',NULL,'2026-11-30 03:59:02.188680+00:00');
INSERT INTO "threads" VALUES('01m8n9pb2qb1g2zxkhh3tj4wzk','see','b2:b891a21dc2380190982bc0793d364f09',NULL,'2026-11-30 03:59:02.231183+00:00');
INSERT INTO "threads" VALUES('01m8n9pb4g9b0ynx4r9z9d0210','shout','b2:46686f9042041e67857e10a1ac13dcdf',NULL,'2026-11-30 03:59:02.290440+00:00');
INSERT INTO "tools" VALUES(1,'5fd38f7848348b80af84e63de270bb9d5d3f9210eded0c81bbbf59998271d02e','upper','Upper-case it.','{"properties": {"text": {"type": "string"}}, "required": ["text"], "type": "object"}',NULL);
INSERT INTO "turn_fragments" VALUES('01m8n9pb1c196c5wawrdbn2n1t',1,0,'prompt');
INSERT INTO "turn_search" VALUES(1,'01m8n9paw8xdhd5zswndfft31g','plain','told: plain 你好');
INSERT INTO "turn_search" VALUES(2,'01m8n9pay25bh9pgx07trspvd9','first','told: first 你好');
INSERT INTO "turn_search" VALUES(3,'01m8n9payzqm366ky79s9yx70x','second','told: second 你好');
INSERT INTO "turn_search" VALUES(4,'01m8n9pb03qy6kbg6024xtcwm4','a dog','{"dog": "Rex"}');
INSERT INTO "turn_search" VALUES(5,'01m8n9pb1c196c5wawrdbn2n1t','
about it','told: a novel
a novel
a no 你好');
INSERT INTO "turn_search" VALUES(6,'01m8n9pb2pshqqth75qt8xj7rf','see','told: see 你好');
INSERT INTO "turn_search" VALUES(7,'01m8n9pb4jec6v3mnpw4rg4g8m','shout','');
INSERT INTO "turn_search" VALUES(8,'01m8n9pb6npxy30bd7sr4np40a','','told:  你好');
INSERT INTO "turn_tools" VALUES('01m8n9pb4jec6v3mnpw4rg4g8m',1,NULL);
INSERT INTO "turn_tools" VALUES('01m8n9pb6npxy30bd7sr4np40a',1,NULL);
INSERT INTO "turns" VALUES('01m8n9paw8xdhd5zswndfft31g','01m8n9pawe90z2s9cxg4zxe7km','b2:3f7b2bb7b4da2cbbd9c2f2c477996aa9','b2:d30f16fc78ff653b51bad0aa6a2cd09a','told',NULL,'{"temperature": 0.5}',NULL,7,3,NULL,0,'2026-11-30T03:59:02.024851+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pay25bh9pgx07trspvd9','01m8n9pay1jd8dha8p51zjfab3','b2:1eac5c295fd60e397249a317497dd746','b2:0d70ed223afc811014979ea401312bb5','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.082114+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9payzqm366ky79s9yx70x','01m8n9pay1jd8dha8p51zjfab3','b2:f93df366f5e5f4fe12a8a71d61f7ea5e','b2:bc13e5c71f9aa59f91ef362a526114ba','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.111945+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pb03qy6kbg6024xtcwm4','01m8n9pb04d2z1mk7933rtmyxe','b2:7bc2ae4cd9c94349698d5afdf1856d4f','b2:9ff54103626883d64961c6e629e88292','told',NULL,NULL,'a8c34e144a92a48991d41742bced030c',7,3,NULL,0,'2026-11-30T03:59:02.147883+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pb1c196c5wawrdbn2n1t','01m8n9pb1c196c5wawrdbn2n1v','b2:f46622abdc3dd9bd0a746f967dd26b9e','b2:014ee641d54726ab13757c00c4ae2d11','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.188292+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pb2pshqqth75qt8xj7rf','01m8n9pb2qb1g2zxkhh3tj4wzk','b2:a0fe6c7c0918e686ecd1f1da197640d2','b2:b891a21dc2380190982bc0793d364f09','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.230808+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pb4jec6v3mnpw4rg4g8m','01m8n9pb4g9b0ynx4r9z9d0210','b2:2fa26e4c4b6096cf91f50e75fee91329','b2:f7f8adfddb693b8135de14fbc7bb0ed3','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.290111+00:00',NULL);
INSERT INTO "turns" VALUES('01m8n9pb6npxy30bd7sr4np40a','01m8n9pb4g9b0ynx4r9z9d0210','b2:c00002c2ce1a2dc8495a394cd87eb4dc','b2:46686f9042041e67857e10a1ac13dcdf','told',NULL,NULL,NULL,7,3,NULL,0,'2026-11-30T03:59:02.357443+00:00',NULL);
