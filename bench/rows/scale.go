package rows

import "time"

// Scale is how much is measured.
type Scale struct {
	Name         string
	Rounds       int
	Long         int   // rounds of what takes long
	HitBytes     int64 // that one measurement of a hit transfers
	HitConns     []int
	Small        int   // requests of one measurement of small hits
	SetUps       int   // connections of one measurement of set-up
	Cold         int64 // size of a blob from a fast origin
	Throttled    int64 // size of a blob from a slow one
	Herd         int   // clients
	Nodes        []int
	Idle         int           // connections
	Rest         time.Duration // how long they rest before memory is read: a Go program gives back in minutes
	Slow         int           // readers
	Objects      int
	ObjectsFor   time.Duration // how long a peer may take to fill them
	ObjectsHits  int
	Growth       bool
	Distribution bool // measured wherever it can be
}

// Full is what the figures of docs/performance.md were measured with.
func Full() Scale {
	return Scale{
		Name: "full", Rounds: 7, Long: 3, HitBytes: 2 << 30, HitConns: []int{1, 2, 4, 8, 32}, Small: 20000, SetUps: 1500,
		Cold: 256 << 20, Throttled: 256 << 20, Herd: 32, Nodes: []int{4, 32}, Idle: 5000, Rest: 150 * time.Second, Slow: 500,
		Objects: 100000, ObjectsFor: 30 * time.Second, ObjectsHits: 50000, Growth: true, Distribution: true,
	}
}

// Short takes less than two minutes on two cores that have nothing else to do. Its figures are rougher, its rows of
// memory and many objects smaller; growth is left out.
func Short() Scale {
	return Scale{
		Name: "short", Rounds: 2, Long: 1, HitBytes: 512 << 20, HitConns: []int{2}, Small: 3000, SetUps: 250,
		Cold: 256 << 20, Throttled: 64 << 20, Herd: 32, Nodes: []int{4}, Idle: 300, Rest: time.Second, Slow: 50,
		Objects: 3000, ObjectsFor: 3 * time.Second, ObjectsHits: 4000,
	}
}
