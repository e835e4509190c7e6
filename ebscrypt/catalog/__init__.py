"""What exists, and in which state: volumes, their tags, and the events of their changes.

    events      the record of one event, as EventBridge would carry it
    tables      the tables, in SQLAlchemy's words, for SQLite now and PostgreSQL later
    snapshots   snapshots and their tags: what `Catalog.snapshots` gives
    schema      opening the database: safety settings, permissions, schema version and migrations
    catalog     `Catalog`: the questions and changes that control needs, one transaction each

Whether an attachment is alive is not kept here: the lock that its daemon holds says so, and cannot be out of date.
"""
