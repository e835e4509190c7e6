-- A catalog of schema 1 as ebscrypt 0.1 wrote it (sqlite3 .dump). Opened by a test for ever; never regenerate it.
BEGIN TRANSACTION;
CREATE TABLE events (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_id VARCHAR(36) NOT NULL, 
	body TEXT NOT NULL, 
	UNIQUE (event_id)
);
INSERT INTO "events" VALUES(1,'99cce4dc-2873-46b3-9037-67e6bd6dacf6','{"version": "0", "id": "99cce4dc-2873-46b3-9037-67e6bd6dacf6", "detail-type": "EBS Volume Notification", "source": "aws.ec2", "account": "111122223333", "time": "2024-01-02T03:04:05Z", "region": "eu-central-1", "resources": ["arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef0"], "detail": {"event": "createVolume", "result": "available", "cause": "", "request-id": "a16ca072-0d4d-4174-98e1-aea04c15516e"}}');
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(1);
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
	PRIMARY KEY (volume_id), 
	UNIQUE (claim)
);
INSERT INTO "volumes" VALUES('vol-0123456789abcdef0','in-use',10737418240,21474836480,'/var/lib/ebscrypt/volumes/vol-0123456789abcdef0.luks','/var/lib/ebscrypt/volumes/vol-0123456789abcdef0.luks','file',1,1,4096,'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab','gp3',NULL,'2024-01-02 03:04:04.678000',NULL);
INSERT INTO "volumes" VALUES('vol-0123456789abcdef1','available',10737418240,NULL,'/dev/sdx','/dev/sdx','block',0,0,4096,NULL,'gp3',NULL,'2024-01-02 03:04:05.678000',NULL);
CREATE INDEX volumes_by_state ON volumes (state);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',1);
COMMIT;
