mkfifo p
(echo through > p &)
cat p
rm p
mkfifo q r
(cat q > r &) 
(echo a > q) & cat r
mknod n p
ls -l n | cut -c1
(cat n | wc -c) & seq 1 50000 > n
wait
(sleep 0.1
cat n) & echo late > n
wait
exec 3<>n
echo both >&3
read x <&3
echo $x
