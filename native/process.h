/* The one thing about processes that Python's standard library cannot say. */
#ifndef FERRY_PROCESS_H
#define FERRY_PROCESS_H

/* Ask the kernel for `signal` when the thread that is our parent dies; 0 asks for none.  Returns 0 or an errno. */
int set_pdeathsig(int signal);

#endif
