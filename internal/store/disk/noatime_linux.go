package disk

import "syscall"

// noAtime asks the file system not to note that a file was read.
const noAtime = syscall.O_NOATIME
