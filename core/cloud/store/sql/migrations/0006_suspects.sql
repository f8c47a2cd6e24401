-- Ready tasks whose worker died more than once while running them. There are few: those that ran when a process crashed.
CREATE INDEX task_suspect ON task (priority DESC, seq) WHERE state = 'ready' AND interruptions >= 2;
