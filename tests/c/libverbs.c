/* The functions of functions.h in a shared object: workers that need no program of their own. */
#include "functions.h"
