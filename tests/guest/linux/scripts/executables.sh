echo 'echo script $0 $1
exit 6' > s
chmod +x s
./s arg
echo $?
printf '#!/bin/busybox sh\necho inter $1\n' > t
chmod +x t
./t q
printf '#!/missing\n' > u
chmod +x u
./u
echo $?
touch v
./v
echo $?
chmod +x v
./v
echo $?
./nothere
echo $?
./
echo $?
. ./s
echo unreached
