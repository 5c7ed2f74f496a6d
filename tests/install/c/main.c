/* A C program of somebody else's, which knows isologit only as it is installed. */
#include <isologit/isologit.h>
#include <stdio.h>

int main(void) { return puts(isologit_version()) < 0; }
