trap 'echo exit trap' EXIT
trap 'echo usr1' USR1
kill -USR1 $$
(kill -USR1 $$)
trap '' INT
kill -INT $$
echo alive
trap - INT
sh -c 'kill -KILL $$'
echo $?
sh -c 'kill -SEGV $$'
echo $?
sh -c 'trap "echo hup
exit 3" HUP
kill -HUP $$
echo no'
echo $?
sh -c 'trap "echo pipe" PIPE
kill -PIPE $$
echo after'
kill -l 9
kill -0 $$ && echo exists
(trap 'echo subexit' EXIT
exit 2)
echo $?
kill -0 99999
echo $?
trap
