-- A catalog of schema 4 as ebscrypt 0.1 wrote it (sqlite3 .dump). Opened by a test for ever; never regenerate it.
BEGIN TRANSACTION;
CREATE TABLE deliveries (
	delivery_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	rule_name VARCHAR(64) NOT NULL, 
	target_id VARCHAR(64) NOT NULL, 
	sequence INTEGER NOT NULL, 
	body TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	due FLOAT NOT NULL, 
	UNIQUE (rule_name, target_id, sequence), 
	FOREIGN KEY(rule_name, target_id) REFERENCES rule_targets (rule_name, target_id) ON DELETE CASCADE
);
INSERT INTO "deliveries" VALUES(3,'refused','queue-1',2,'{"version": "0", "id": "33865efd-4e88-4325-80e3-5a2fb803c535", "detail-type": "EBS Volume Notification", "source": "aws.ec2", "account": "111122223333", "time": "2024-01-02T03:04:06Z", "region": "eu-central-1", "resources": ["arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef1", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"], "detail": {"event": "attachVolume", "result": "failed", "cause": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab is disabled.", "request-id": ""}}',0,1704164647.0,1704164647.0);
INSERT INTO "deliveries" VALUES(5,'refused','webhook-1',2,'{"version": "0", "id": "33865efd-4e88-4325-80e3-5a2fb803c535", "detail-type": "EBS Volume Notification", "source": "aws.ec2", "account": "111122223333", "time": "2024-01-02T03:04:06Z", "region": "eu-central-1", "resources": ["arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef1", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"], "detail": {"event": "attachVolume", "result": "failed", "cause": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab is disabled.", "request-id": ""}}',1,1704164647.0,1704164649.5);
CREATE TABLE encryption_defaults (
	account VARCHAR(12) NOT NULL, 
	region VARCHAR(32) NOT NULL, 
	enabled BOOLEAN NOT NULL, 
	kms_key_arn TEXT, 
	PRIMARY KEY (account, region)
);
INSERT INTO "encryption_defaults" VALUES('111122223333','eu-central-1',1,'arn:aws:kms:eu-central-1:111122223333:key/aaaaaaaa-12ab-34cd-56ef-1234567890ab');
INSERT INTO "encryption_defaults" VALUES('111122223333','us-east-1',1,NULL);
CREATE TABLE events (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_id VARCHAR(36) NOT NULL, 
	body TEXT NOT NULL, 
	UNIQUE (event_id)
);
INSERT INTO "events" VALUES(1,'99cce4dc-2873-46b3-9037-67e6bd6dacf6','{"version": "0", "id": "99cce4dc-2873-46b3-9037-67e6bd6dacf6", "detail-type": "EBS Volume Notification", "source": "aws.ec2", "account": "111122223333", "time": "2024-01-02T03:04:05Z", "region": "eu-central-1", "resources": ["arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef0"], "detail": {"event": "createVolume", "result": "available", "cause": "", "request-id": "a16ca072-0d4d-4174-98e1-aea04c15516e"}}');
INSERT INTO "events" VALUES(2,'33865efd-4e88-4325-80e3-5a2fb803c535','{"version": "0", "id": "33865efd-4e88-4325-80e3-5a2fb803c535", "detail-type": "EBS Volume Notification", "source": "aws.ec2", "account": "111122223333", "time": "2024-01-02T03:04:06Z", "region": "eu-central-1", "resources": ["arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef1", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"], "detail": {"event": "attachVolume", "result": "failed", "cause": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab is disabled.", "request-id": ""}}');
CREATE TABLE grants (
	name VARCHAR(256) NOT NULL, 
	volume_id VARCHAR(21) NOT NULL, 
	kms_key_arn TEXT NOT NULL, 
	grant_id VARCHAR(128), 
	create_time DATETIME NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "grants" VALUES('ebscrypt-vol-0123456789abcdef0-0011223344556677','vol-0123456789abcdef0','arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','abababababababababababababababababababababababababababababababab','2024-01-02 03:04:07.678000');
INSERT INTO "grants" VALUES('ebscrypt-vol-0123456789abcdef2-8899aabbccddeeff','vol-0123456789abcdef2','arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab',NULL,'2024-01-02 03:04:08.678000');
CREATE TABLE rule_targets (
	rule_name VARCHAR(64) NOT NULL, 
	target_id VARCHAR(64) NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (rule_name, target_id), 
	FOREIGN KEY(rule_name) REFERENCES rules (name) ON DELETE CASCADE
);
INSERT INTO "rule_targets" VALUES('refused','command-1','{"Type":"Command","Timeout":30.0,"RetryPolicy":{"MaximumRetryAttempts":3,"MaximumEventAgeInSeconds":3600},"Argv":["/bin/echo","a b"]}');
INSERT INTO "rule_targets" VALUES('refused','webhook-1','{"Type":"Webhook","Timeout":60.0,"RetryPolicy":{"MaximumRetryAttempts":185,"MaximumEventAgeInSeconds":86400},"Url":"https://hooks.example.com/x?token=1"}');
INSERT INTO "rule_targets" VALUES('refused','event-bus-1','{"Type":"EventBus","Timeout":60.0,"RetryPolicy":{"MaximumRetryAttempts":185,"MaximumEventAgeInSeconds":86400},"Arn":"arn:aws:events:eu-central-1:111122223333:event-bus/default"}');
INSERT INTO "rule_targets" VALUES('refused','topic-1','{"Type":"Topic","Timeout":60.0,"RetryPolicy":{"MaximumRetryAttempts":185,"MaximumEventAgeInSeconds":86400},"Arn":"arn:aws:sns:eu-central-1:111122223333:alarms"}');
INSERT INTO "rule_targets" VALUES('refused','queue-1','{"Type":"Queue","Timeout":60.0,"RetryPolicy":{"MaximumRetryAttempts":185,"MaximumEventAgeInSeconds":86400},"Arn":"arn:aws:sqs:eu-central-1:111122223333:events.fifo"}');
CREATE TABLE rules (
	name VARCHAR(64) NOT NULL, 
	event_pattern TEXT NOT NULL, 
	enabled BOOLEAN NOT NULL, 
	description TEXT NOT NULL, 
	cursor INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "rules" VALUES('refused','{"detail": {"event": ["attachVolume"], "result": ["failed"]}}',1,'Look at what KMS refused.',2);
INSERT INTO "rules" VALUES('off','{"source": ["aws.ec2"]}',0,'',1);
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(4);
CREATE TABLE snapshot_tags (
        snapshot_id VARCHAR(22) NOT NULL,
        key VARCHAR(127) NOT NULL,
        value VARCHAR(256) NOT NULL,
        PRIMARY KEY (snapshot_id, key),
        FOREIGN KEY(snapshot_id) REFERENCES snapshots (snapshot_id) ON DELETE CASCADE
    );
INSERT INTO "snapshot_tags" VALUES('snap-0123456789abcdef0','Name','mail');
CREATE TABLE snapshots (
        snapshot_id VARCHAR(22) NOT NULL,
        volume_id VARCHAR(21) NOT NULL,
        state VARCHAR(16) NOT NULL CONSTRAINT snapshots_state CHECK (state IN ('pending', 'completed', 'error')),
        volume_size BIGINT NOT NULL CONSTRAINT snapshots_size CHECK (volume_size > 0),
        sector_size INTEGER NOT NULL,
        encrypted BOOLEAN NOT NULL,
        kms_key_arn TEXT CONSTRAINT snapshots_key CHECK (encrypted OR kms_key_arn IS NULL),
        data_encryption_key_id VARCHAR(128),
        description VARCHAR(255) NOT NULL,
        start_time DATETIME NOT NULL,
        completion_time DATETIME,
        bytes_done BIGINT NOT NULL,
        bytes_total BIGINT NOT NULL,
        store TEXT NOT NULL,
        digest VARCHAR(64) CONSTRAINT snapshots_digest CHECK (state <> 'completed' OR digest IS NOT NULL),
        parent VARCHAR(22),
        copied_from VARCHAR(22),
        state_message TEXT,
        deleting BOOLEAN NOT NULL,
        job TEXT CONSTRAINT snapshots_job CHECK (job IS NULL OR state != 'error'),
        PRIMARY KEY (snapshot_id)
    );
INSERT INTO "snapshots" VALUES('snap-0123456789abcdef0','vol-0123456789abcdef0','completed',10737418240,4096,1,'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','6ebe7874-f36e-41de-ae1b-734f6b707946','nightly','2024-01-02 03:05:01.678000','2024-01-02 03:05:09.678000',1073741824,1073741824,'local','abababababababababababababababababababababababababababababababab',NULL,NULL,NULL,0,NULL);
INSERT INTO "snapshots" VALUES('snap-0123456789abcdef1','vol-0123456789abcdef0','pending',10737418240,4096,1,'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','6ebe7874-f36e-41de-ae1b-734f6b707946','','2024-01-02 03:05:11.678000',NULL,4096,1073741824,'s3://bucket/prefix/',NULL,'snap-0123456789abcdef0',NULL,NULL,0,'{"region":"eu-central-1"}');
INSERT INTO "snapshots" VALUES('snap-0123456789abcdef2','vol-0123456789abcdef0','error',10737418240,4096,1,'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','6ebe7874-f36e-41de-ae1b-734f6b707946','','2024-01-02 03:05:21.678000',NULL,0,0,'local',NULL,NULL,'snap-0123456789abcdef0','the copy was interrupted',0,NULL);
INSERT INTO "snapshots" VALUES('snap-0123456789abcdef3','vol-0123456789abcdef1','pending',10737418240,512,0,NULL,NULL,'','2024-01-02 03:05:31.678000',NULL,0,0,'local',NULL,NULL,NULL,NULL,1,NULL);
CREATE TABLE volume_tags (
	volume_id VARCHAR(21) NOT NULL, 
	"key" VARCHAR(127) NOT NULL, 
	value VARCHAR(256) NOT NULL, 
	PRIMARY KEY (volume_id, "key"), 
	FOREIGN KEY(volume_id) REFERENCES volumes (volume_id) ON DELETE CASCADE
);
INSERT INTO "volume_tags" VALUES('vol-0123456789abcdef0','Name','mail');
CREATE TABLE volumes (
	volume_id VARCHAR(21) NOT NULL, 
	state VARCHAR(16) NOT NULL CONSTRAINT volumes_state CHECK (state IN ('creating', 'available', 'in-use', 'deleting', 'error')), 
	size BIGINT NOT NULL CONSTRAINT volumes_size CHECK (size > 0), 
	target_size BIGINT, 
	backing TEXT NOT NULL, 
	claim TEXT, 
	backing_kind VARCHAR(8) NOT NULL, 
	backing_owned BOOLEAN NOT NULL, 
	encrypted BOOLEAN NOT NULL, 
	sector_size INTEGER NOT NULL, 
	kms_key_arn TEXT CONSTRAINT volumes_key CHECK (encrypted OR kms_key_arn IS NULL), 
	volume_type VARCHAR(16) NOT NULL, 
	snapshot_id VARCHAR(22), 
	create_time DATETIME NOT NULL, 
	state_message TEXT, 
	on_key_unusable VARCHAR(16) DEFAULT 'ignore' NOT NULL, 
	was_attached BOOLEAN DEFAULT '0' NOT NULL, 
	attach_failure TEXT, 
	target_kms_key_arn TEXT, 
	PRIMARY KEY (volume_id), 
	UNIQUE (claim)
);
INSERT INTO "volumes" VALUES('vol-0123456789abcdef0','in-use',10737418240,21474836480,'/var/lib/ebscrypt/volumes/vol-0123456789abcdef0.luks','/var/lib/ebscrypt/volumes/vol-0123456789abcdef0.luks','file',1,1,4096,'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','gp3',NULL,'2024-01-02 03:04:04.678000',NULL,'suspend',1,'KMS refused Decrypt: arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab is disabled','arn:aws:kms:eu-central-1:111122223333:key/aaaaaaaa-12ab-34cd-56ef-1234567890ab');
INSERT INTO "volumes" VALUES('vol-0123456789abcdef1','available',10737418240,NULL,'/dev/sdx','/dev/sdx','block',0,0,4096,NULL,'gp3',NULL,'2024-01-02 03:04:05.678000',NULL,'ignore',0,NULL,NULL);
CREATE INDEX volumes_by_state ON volumes (state);
CREATE INDEX ix_grants_volume_id ON grants (volume_id);
CREATE INDEX deliveries_by_due ON deliveries (due);
CREATE INDEX ix_snapshots_volume_id ON snapshots (volume_id);
CREATE INDEX snapshots_by_state ON snapshots (state);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('deliveries',5);
INSERT INTO "sqlite_sequence" VALUES('events',2);
COMMIT;
