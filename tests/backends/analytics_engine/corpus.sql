-- Statements over everything Analytics Engine documents. Each ends with a semicolon; corpus.json has the answers.

SELECT blob1, double1
FROM 2nth_token_usage
WHERE double1 > 4900
ORDER BY double1, blob1;

SELECT blob1 AS client, double1 AS tokens
FROM "2nth_token_usage"
ORDER BY tokens DESC, client ASC LIMIT 5;

SELECT double5 AS at
FROM 2nth_token_usage
ORDER BY at LIMIT 3 OFFSET 7;

SELECT double5 AS at
FROM 2nth_token_usage
ORDER BY at LIMIT ALL OFFSET 236;

SELECT blob1 AS client, SUM(_sample_interval * double1) AS total, COUNT() AS points
FROM 2nth_token_usage
WHERE timestamp > NOW() - INTERVAL '9000' DAY
GROUP BY blob1
ORDER BY total DESC;

SELECT index1 AS client, sum(_sample_interval) AS count
FROM 2nth_token_usage
GROUP BY client
ORDER BY count, client;

SELECT index1 AS client, blob5 AS endpoint, sum(_sample_interval) AS usage
FROM 2nth_token_usage
WHERE client = 'ann' AND timestamp >= toDateTime('2026-11-01 00:00:00') AND timestamp < toDateTime('2026-12-01 00:00:00')
GROUP BY client, endpoint
ORDER BY endpoint;

SELECT toStartOfInterval(timestamp, INTERVAL '1' DAY) AS date, blob6 AS plan,
    sum(_sample_interval) AS requests
FROM 2nth_token_usage
WHERE plan <> 'free'
GROUP BY date, plan
ORDER BY date, plan;

SELECT blob2 AS org, avg(double2) AS average
FROM 2nth_token_usage
GROUP BY org
HAVING average > 2000
ORDER BY org;

SELECT blob2 AS org, count() AS n
FROM 2nth_token_usage
GROUP BY org
HAVING n > 10 AND max(double4) = 500
ORDER BY org;

SELECT max(n) AS most, count() AS clients
FROM (SELECT blob1 AS client, count() AS n
FROM 2nth_token_usage
GROUP BY client);

SELECT day, sum(total) AS cost
FROM (SELECT toStartOfDay(timestamp) AS day, blob4 AS model, sum(double3 * _sample_interval) AS total
FROM 2nth_token_usage
GROUP BY day, model)
WHERE total > 0.1
GROUP BY day
ORDER BY day LIMIT 9;

SELECT double1 > 2500 AS large, count() AS n
FROM 2nth_token_usage
GROUP BY double1 > 2500
ORDER BY large;

SELECT SUM(_sample_interval * double2) / SUM(_sample_interval) AS average, dataset
FROM 2nth_token_usage
GROUP BY dataset;

SELECT intDiv(toUInt32(timestamp), 3600) * 3600 AS t, blob4 AS label, sum(_sample_interval) AS n
FROM 2nth_token_usage
WHERE timestamp <= NOW() OR timestamp > NOW()
GROUP BY blob4, t
ORDER BY t, label LIMIT 20;

SELECT *
FROM 2nth_token_usage
ORDER BY double5 LIMIT 5;

SELECT 'Hello' AS message;

SELECT 1 AS a, -1 AS b, 300 AS c, -70000 AS d, 5000000000 AS e, 1.5 AS f, true AS g, 'it''s' AS h, 1e21 AS i,
    2.0 AS j;

SELECT double5 AS at, double1 + double2 AS x0, double1 - 7 AS x1, double1 * 1.5 AS x2, double1 / 3 AS x3,
    double1 % 7 AS x4, -double1 AS x5
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toUInt32(double1) + 1 AS x0, toUInt8(double4) - 1 AS x1, toUInt8(double4) * 2 AS x2,
    toUInt32(double1) / 4 AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toUInt32(double1) % 7 AS x0, -toUInt32(double1) AS x1, -7 % 3 AS x2, 7 % -3 AS x3,
    5.5 % 2 AS x4, 1 - 2 AS x5
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT 5 / 0 AS a, 0 / 0 AS b, -1 / 0 AS c, 0.1 + 0.2 AS d, 2 * 3 + 4 AS e, 2 * (3 + 4) AS f, 7 - 2 - 1 AS g;

SELECT double5 AS at, double4 = 200 AS x0, double4 <> 200 AS x1, double4 != 429 AS x2, double4 < 429 AS x3,
    double4 <= 429 AS x4, double4 > 429 AS x5
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, double4 >= 429 AS x0, blob1 = 'ann' AS x1, blob1 > 'bob' AS x2, blob1 < 'bob' AS x3,
    blob1 IN ('ann', 'bob') AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, double4 IN (200, 500) AS x0, double4 NOT IN (200, 500) AS x1, blob1 NOT IN ('ann') AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, double1 BETWEEN 1000 AND 2000 AS x0, double1 NOT BETWEEN 1000 AND 2000 AS x1,
    blob1 BETWEEN 'a' AND 'b' AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, blob3 LIKE 'sum%' AS x0, blob3 LIKE 't%' AS x1, blob3 LIKE '%e_ror%' AS x2,
    blob3 NOT LIKE '%s%' AS x3, blob3 LIKE '' AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, blob3 ILIKE 't%' AS x0, blob3 NOT ILIKE 'S%' AS x1, blob1 ILIKE 'zo_ %' AS x2,
    blob5 LIKE 'GET /items/{id}' AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, double1 > 9 AND blob1 = 'ann' AS x0, double1 > 4000 OR blob2 = '' AS x1,
    NOT double8 = 1 AS x2, NOT (double1 > 1 AND 1) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT true AND 1 = 1 AS a, NOT true AS b, 1 AND 2 AS c, false OR 0 AS d, 1 = 1 AS e;

SELECT double5 AS at, blob1 = 'O''Brien' AS x0, blob1 = 'back\\slash' AS x1, blob1 = 'Zoë 🦊' AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT count() AS x0, count(DISTINCT blob1) AS x1, count(DISTINCT double4) AS x2, countIf(double4 = 200) AS x3
FROM 2nth_token_usage;

SELECT sum(double1) AS x0, sum(_sample_interval) AS x1, sum(DISTINCT double4) AS x2, sumIf(double1,
    blob1 = 'ann') AS x3, sum(-1) AS x4
FROM 2nth_token_usage;

SELECT avg(double1) AS x0, avg(_sample_interval) AS x1, avg(DISTINCT double4) AS x2, avgIf(double1,
    blob2 = 'acme') AS x3
FROM 2nth_token_usage;

SELECT min(double1) AS x0, max(double1) AS x1, min(blob1) AS x2, max(blob1) AS x3, min(timestamp) AS x4,
    max(_sample_interval) AS x5
FROM 2nth_token_usage;

SELECT quantileExactWeighted(0)(double2, _sample_interval) AS x0, quantileExactWeighted(0.5)(double2,
    _sample_interval) AS x1, quantileExactWeighted(0.95)(double2, _sample_interval) AS x2,
    quantileExactWeighted(0.99)(double2, _sample_interval) AS x3, quantileExactWeighted(1)(double2,
    _sample_interval) AS x4
FROM 2nth_token_usage;

SELECT quantileExactWeighted(0.5)(double1, 1) AS x0, quantileExactWeighted(0.9)(timestamp,
    _sample_interval) AS x1
FROM 2nth_token_usage;

SELECT quantileWeighted(0.5, double2, _sample_interval) AS x0, QUANTILEWEIGHTED(0.75, double1,
    _sample_interval) AS x1
FROM 2nth_token_usage;

SELECT blob4 AS m, quantileExactWeighted(0.95)(double2, _sample_interval) AS p95
FROM 2nth_token_usage
GROUP BY m
ORDER BY m;

SELECT argMax(blob1, double2) AS x0, argMin(blob1, double2) AS x1, argMax(double5, double2) AS x2,
    argMin(timestamp, double5) AS x3
FROM 2nth_token_usage;

SELECT first_value(x) AS a, last_value(x) AS b
FROM (SELECT double5 AS x
FROM 2nth_token_usage
ORDER BY x);

SELECT topK(1)(blob2) AS x0, topK(2)(double4) AS x1, topKWeighted(2)(blob6, _sample_interval) AS x2,
    topK(blob6) AS x3
FROM 2nth_token_usage;

SELECT topKWeighted(double4, _sample_interval) AS x0
FROM 2nth_token_usage;

SELECT count() * 2 AS x0, sum(double1) / count() AS x1, if(count() > 5, 'many', 'few') AS x2,
    round(avg(double2), 2) AS x3
FROM 2nth_token_usage;

SELECT count() AS a, sum(double1) AS b, avg(double1) AS c, min(double1) AS d, max(blob1) AS e,
    count(DISTINCT blob1) AS f, argMax(blob1, double1) AS g, topK(blob1) AS h, max(timestamp) AS i,
    sumIf(double1, 1 = 1) AS j
FROM 2nth_token_usage
WHERE 1 = 0;

SELECT blob1 AS a, sum(double1) AS b
FROM 2nth_token_usage
WHERE double1 < 0
GROUP BY a;

SELECT double5 AS at, timestamp AS x0, toUnixTimestamp(timestamp) AS x1, toDateTime(double5) AS x2,
    timestamp + INTERVAL '90' MINUTE AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toYear(timestamp) AS x0, toMonth(timestamp) AS x1, toDayOfMonth(timestamp) AS x2,
    toDayOfWeek(timestamp) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toHour(timestamp) AS x0, toMinute(timestamp) AS x1, toSecond(timestamp) AS x2,
    toYYYYMM(timestamp) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, extract(YEAR from timestamp) AS x0, extract(MONTH from timestamp) AS x1,
    extract(DAY from timestamp) AS x2, extract(HOUR from timestamp) AS x3,
    extract(MINUTE from timestamp) AS x4, extract(SECOND from timestamp) AS x5
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfYear(timestamp) AS x0, toStartOfMonth(timestamp) AS x1,
    toStartOfWeek(timestamp) AS x2, toStartOfDay(timestamp) AS x3, toStartOfHour(timestamp) AS x4,
    toStartOfMinute(timestamp) AS x5
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfFifteenMinutes(timestamp) AS x0, toStartOfTenMinutes(timestamp) AS x1,
    toStartOfFiveMinutes(timestamp) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' SECOND) AS x0, toStartOfInterval(timestamp,
    INTERVAL '10' SECOND) AS x1, toStartOfInterval(timestamp, INTERVAL '90' SECOND) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' MINUTE) AS x0, toStartOfInterval(timestamp,
    INTERVAL '15' MINUTE) AS x1, toStartOfInterval(timestamp, INTERVAL '90' MINUTE) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' HOUR) AS x0, toStartOfInterval(timestamp,
    INTERVAL '3' HOUR) AS x1, toStartOfInterval(timestamp, INTERVAL '5' HOUR) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' DAY) AS x0, toStartOfInterval(timestamp,
    INTERVAL '2' DAY) AS x1, toStartOfInterval(timestamp, INTERVAL '7' DAY) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' MONTH) AS x0, toStartOfInterval(timestamp,
    INTERVAL '3' MONTH) AS x1, toStartOfInterval(timestamp, INTERVAL '5' MONTH) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' YEAR) AS x0, toStartOfInterval(timestamp,
    INTERVAL '3' YEAR) AS x1
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '1' HOUR, 'Europe/Berlin') AS x0,
    toStartOfInterval(timestamp, INTERVAL '1' DAY, 'Europe/Berlin') AS x1, toStartOfInterval(timestamp,
    INTERVAL '1' MONTH, 'Europe/Berlin') AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, toStartOfInterval(timestamp, INTERVAL '15' MINUTE, 'Asia/Kathmandu') AS x0,
    toStartOfInterval(timestamp, INTERVAL '15' MINUTE, 'Etc/UTC') AS x1
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT toDateTime('2026-10-25 00:59:58') AS a, toDateTime('2026-10-25 02:30:00', 'Europe/Berlin') AS b,
    toDateTime('355924804') AS c, toDateTime(355924804) AS d, toDateTime(1.9) AS e,
    toDateTime('2026-11-20') AS f;

SELECT toUnixTimestamp(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin')) AS a,
    toDateTime(toDateTime('2026-10-25 00:59:58'), 'America/New_York') AS b,
    toHour(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin')) AS c,
    toStartOfDay(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin')) AS d,
    toStartOfHour(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin')) AS e,
    toDayOfWeek(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin')) AS f;

SELECT toDateTime('2026-10-25 00:59:58') + INTERVAL '5' SECOND AS x;

SELECT toDateTime('2026-10-25 00:59:58') - INTERVAL '61' MINUTE AS x;

SELECT toDateTime('2026-10-25 00:59:58') + INTERVAL '25' HOUR AS x;

SELECT toDateTime('2026-10-25 00:59:58') - INTERVAL '400' DAY AS x;

SELECT toDateTime('2024-01-31 01:02:03') + INTERVAL '1' MONTH AS a,
    toDateTime('2024-02-29 00:00:00') - INTERVAL '1' YEAR AS b,
    toDateTime('2026-12-15 00:00:00') + INTERVAL '13' MONTH AS c;

SELECT toDateTime('2026-10-25 00:59:58') - toDateTime('2026-10-24 00:00:00') AS a,
    toDateTime('2026-10-25 00:59:58') + 60 AS b, toDateTime('2026-10-25 00:59:58') - 60 AS c;

SELECT now() > toDateTime('2026-01-01 00:00:00') AS a, today() = today() AS b,
    toStartOfDay(now()) <= now() AS c, toUnixTimestamp(now()) > 1700000000 AS d, today() <= now() AS e;

SELECT formatDateTime(toDateTime('2026-03-05 14:07:09'), '%Y-%m-%d %H:%i:%S') AS a,
    formatDateTime(toDateTime('2026-03-05 14:07:09'), '%a %b %c %C %d %D %e %F %g %G') AS b,
    formatDateTime(toDateTime('2026-03-05 14:07:09'), '%h %I %j %k %l %m %M %p %Q %r %R %s') AS c,
    formatDateTime(toDateTime('2026-03-05 14:07:09'), '%T %u %V %w %W %y %z %% 100') AS d;

SELECT formatDateTime(toDateTime('2026-12-31 00:07:09'), '%e %h %H %I %k %l %p %r %j %G %V %y %W %Q') AS a;

SELECT formatDateTime(toDateTime('2026-10-25 00:59:58'), '%F %T %z', 'Europe/Berlin') AS a,
    formatDateTime(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin'), '%F %T %z') AS b,
    formatDateTime(toDateTime('2026-10-25 02:30:00', 'Europe/Berlin'), '%F %T', 'Etc/UTC') AS c;

SELECT double5 AS at, length(blob1) AS x0, empty(blob1) AS x1, lower(blob1) AS x2, lowerUTF8(blob1) AS x3,
    toLower(blob1) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, upper(blob1) AS x0, upperUTF8(blob1) AS x1, toUpper(blob1) AS x2, startsWith(blob5,
    'GET') AS x3, endsWith(blob5, 's') AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, position(' ' IN blob3) AS x0, position('ë' IN blob1) AS x1,
    position('' IN blob1) AS x2, position('zz' IN blob1) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, substring(blob1, 2) AS x0, substring(blob1, 2, 2) AS x1, substring(blob1, -2) AS x2,
    substring(blob1, 1, 0) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, substring(blob3, 1, position(':' IN blob3) - 1) AS x0, endsWith(blob1, '') AS x1,
    startsWith(blob1, '') AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, format('{} of {}', blob1, blob2) AS x0, format('{1}/{0}', blob1, blob2) AS x1
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, format('{} {} {}', double2, _sample_interval, timestamp) AS x0
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, intDiv(toUInt32(double1), 7) AS x0, intDiv(double1, 7) AS x1, intDiv(-7, 2) AS x2,
    intDiv(7, -2) AS x3, intDiv(7.9, 2.9) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, log(double1 + 1) AS x0, ln(double1 + 2) AS x1, pow(double7, 2) AS x2, pow(2, 0.5) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, round(double2) AS x0, round(double2, 1) AS x1, round(double2, -2) AS x2,
    round(toUInt32(double1), -2) AS x3, round(5) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, floor(double2) AS x0, floor(double2, 1) AS x1, floor(double2, -2) AS x2,
    ceil(double2) AS x3, ceil(double2, 1) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT round(2.5) AS a, round(3.5) AS b, round(-2.5) AS c, floor(-2.5) AS d, ceil(-2.5) AS e,
    round(5.5) AS f, round(3.14, 1) AS g, floor(3.14, 1) AS h, ceil(3.14, 1) AS i, floor(7) AS j,
    log(0) AS k, log(-1) AS l;

SELECT double5 AS at, toUInt8(double1) AS x0, toUInt32(double2) AS x1, toUInt32(timestamp) AS x2,
    toUInt8('12') AS x3, toUInt32('70000') AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, if(double4 = 200, 'ok', 'failed') AS x0, if(double4 = 200, double1, 0.0) AS x1,
    if(double1 > 9, 1, 300) AS x2, if(1, 2, -3) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, if(double4 = 200, timestamp, toDateTime(0)) AS x0, if(blob1 = 'ann', if(double1 > 2500,
    'a', 'b'), blob2) AS x1
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, bitAnd(toUInt32(double1), 3) AS x0, bitOr(toUInt32(double1), 3) AS x1,
    bitXor(toUInt32(double1), 3) AS x2, bitNot(toUInt32(double1)) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT bitAnd(1, 3) AS a, bitAnd(1, 300) AS b, bitAnd(-1, 3) AS c, bitNot(1) AS d, bitOr(1, 2) AS e,
    bitXor(3, 3) AS f;

SELECT double5 AS at, bitCount(toUInt32(double1)) AS x0, bitCount(double1) AS x1,
    bitHammingDistance(toUInt32(double1), 7) AS x2, bitCount(-1) AS x3
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, bitTest(toUInt32(double1), 1) AS x0, bitTest(toUInt32(double1), 9) AS x1, bitTest(3,
    1) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, bitShiftLeft(toUInt32(double1), 3) AS x0, bitShiftRight(toUInt32(double1), 3) AS x1,
    bitShiftLeft(toUInt8(double1), 7) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, bitRotateLeft(toUInt8(double1), 3) AS x0, bitRotateRight(toUInt8(double1), 3) AS x1,
    bitRotateLeft(toUInt32(double1), 30) AS x2
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT bitShiftLeft(128, 1) AS a, bitRotateLeft(128, 1) AS b, bitRotateRight(1, 1) AS c, bitShiftRight(12,
    2) AS d;

SELECT double5 AS at, bin(toUInt8(double1)) AS x0, bin(blob2) AS x1, bin(double7) AS x2, bin(300) AS x3,
    bin(-1) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

SELECT double5 AS at, hex(toUInt32(double1)) AS x0, hex(blob1) AS x1, hex(double7) AS x2,
    hex(timestamp) AS x3, hex(0) AS x4
FROM 2nth_token_usage
ORDER BY at LIMIT 12;

select COUNT() as n, Sum(double1) as s, AVG(double1) as a, MAX(double1) as m from 2nth_token_usage;

SELECT ROUND(double1) AS r, UPPER(blob2) AS u, TOSTARTOFHOUR(timestamp) AS h
FROM 2nth_token_usage
ORDER BY r, u, h LIMIT 3;
