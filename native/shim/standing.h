/* Where a process stands: what makes two callers see one host, and the rights that neither can get back.
 *
 * All who stand where a broker does are served by it, and nobody else: it acts in its own namespaces, with its own
 * rights.  A standing has a name, the CRC-32 of these lines: the links of its mount, network, user and pid namespaces;
 * device and inode of its root directory; lines of its status in /proc that tell of rights and, unless it is root's, of
 * identity; where seccomp or no_new_privs confine it, its cgroup, since that is all that tells one set of rules from
 * another; its label, if a security module has one that says anything; the hard limits if it cannot raise them, and its
 * niceness if it cannot lower that.  What can be reset (process.h) is not in it.  A live broker pins its namespaces, so
 * that no other can get their numbers.
 *
 * Where the store is mounted read-only, every command of Nix that runs as root leaves its mount namespace for one of its
 * own.  It keeps the one that it left open, and leaks it to the hook as descriptor 3 (2.8, 2.26, 2.34): there it stands.
 * Used by the shim and by Python (hook/broker/standing.py).  Tested in tests/broker/test_standing.py. */
#ifndef FERRY_STANDING_H
#define FERRY_STANDING_H

#include <stdbool.h>
#include <stdint.h>

/* The name of where process `pid` stands, 0 for this one.  False if the kernel does not say. */
bool find_standing(int pid, uint32_t *name);

/* Go back to the mount namespace that the parent of process `hook`, of which this is a child, has left, if it has.
 * False, which only the end of the process can follow, if that is not possible or `/` would be another directory there. */
bool go_home(int hook);

#endif
