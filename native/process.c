#include "process.h"

#include <errno.h>
#include <sys/prctl.h>

int set_pdeathsig(int signal)
{
    return prctl(PR_SET_PDEATHSIG, (unsigned long)signal, 0, 0, 0) < 0 ? errno : 0;
}
