/* Says with whose rights it runs; set-uid in the image of the conformance run. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %d\n", (int)geteuid());
    return 0;
}
