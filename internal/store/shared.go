package store

// Shared bounds what the open replicas of one process take together. It belongs to the
// goroutine that they belong to: give each of a host.Loop's replicas the same one, in
// Options.Shared. The limits of Options go on bounding each by itself.
type Shared struct {
	// FilesMax is how many chunk files are open in all together; 0 is 4096. What is
	// used longest ago is closed first, whosever it is.
	FilesMax int
	// TablesMax is how many block tables are in memory in all together, 11 KiB each; 0
	// is 16384. Those that must be saved first may be more for a while: at most as many
	// as the replicas' own limits allow.
	TablesMax int

	replicas []*Replica
	clock    uint64 // of the files' use, in place of each replica's
}

const (
	sharedFiles  = 4096
	sharedTables = 16384
)

// join makes r one of those that share; nil shares nothing.
func (s *Shared) join(r *Replica) {
	if s != nil {
		s.replicas = append(s.replicas, r)
	}
}

// leave ends that.
func (s *Shared) leave(r *Replica) {
	if s == nil {
		return
	}
	for i, x := range s.replicas {
		if x == r {
			last := len(s.replicas) - 1
			s.replicas[i], s.replicas[last] = s.replicas[last], nil
			s.replicas = s.replicas[:last]
			return
		}
	}
}

// useFile marks f as just used.
func (r *Replica) useFile(f *file) {
	clock := &r.files.clock
	if s := r.opts.Shared; s != nil {
		clock = &s.clock
	}
	*clock++
	f.used = *clock
}

// shrinkFiles closes idle files of any replica until there is room for one more.
func (s *Shared) shrinkFiles() {
	if s == nil {
		return
	}
	limit := s.FilesMax
	if limit == 0 {
		limit = sharedFiles
	}
	for {
		open := 0
		var victim *file
		var owner, most *Replica
		for _, r := range s.replicas {
			if most == nil || len(r.files.list) > len(most.files.list) {
				most = r
			}
			for _, f := range r.files.list {
				if !f.ready {
					continue
				}
				open++
				if f.refs == 0 && !f.unsynced && (victim == nil || f.used < victim.used) {
					victim, owner = f, r
				}
			}
		}
		switch {
		case open < limit:
			return
		case victim == nil: // next time there is one that is not in use
			most.flusher.kick(most)
			return
		}
		owner.spawn("make room", func(t *task) { t.closeFile(victim) })
	}
}

// crowded reports whether there are more tables in memory than there should be.
func (s *Shared) crowded() bool {
	if s == nil {
		return false
	}
	limit := s.TablesMax
	if limit == 0 {
		limit = sharedTables
	}
	total := 0
	for _, r := range s.replicas {
		total += len(r.tables.list)
	}
	return total > limit
}

// shrinkTables drops tables of the replica that has most, or has some saved.
func (s *Shared) shrinkTables(keep *table) {
	for tries := 8; tries > 0 && s.crowded(); tries-- {
		most := s.replicas[0]
		for _, r := range s.replicas {
			if len(r.tables.list) > len(most.tables.list) {
				most = r
			}
		}
		if !most.dropOneTable(keep) {
			most.saver.kick(most)
			return
		}
	}
}
